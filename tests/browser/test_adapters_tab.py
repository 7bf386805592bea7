"""Adapters that a visitor brings to the page, and that nobody else sees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gradio_client import Client
from playwright.sync_api import expect

from benchmarks.chromium import serving
from benchmarks.hands import set_slider
from tests.tools.fake_hub import fake_hub

ROOT = Path(__file__).parents[2]
TAGS = ["base_model:adapter:HuggingFaceTB/SmolLM2-135M-Instruct", "peft", "safetensors", "license:mit"]
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def hub():
    """A Hub with one adapter of the base, one of another base, and one whose name is a trap."""
    with fake_hub() as server:
        folder = ROOT / "assets/adapters/archaic"
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        server.add(BASE, {"config.json": b"{}"})
        server.add("pirates/blackbeard", files)
        card = (
            "---\nlicense: \"<img src=x onerror='window.hacked=1'>\"\ndatasets: ['${window.hacked=1}']\n---\n"
        )
        server.add("evil/card", {**files, "README.md": card.encode()})
        server.about = {
            "pirates/blackbeard": {"tags": TAGS, "downloads": 12, "likes": 3},
            "evil/one": {"tags": [*TAGS[:3], "license:<img src=x onerror=window.hacked=1>"], "downloads": 1},
        }
        yield server


@pytest.fixture(scope="module")
def address(hub, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    given = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}
    with serving(COMPOSER_COMPILE="0", **given) as found:
        yield found


def open_tab(page):
    page.get_by_role("tab", name="Adapters").click()
    page.wait_for_selector("#add-source")


def find(page, text):
    page.fill("#add-source input, #add-source textarea", text)
    page.click("#add-button")


def add(page, text):
    find(page, text)
    page.click(".finder-add")
    page.wait_for_selector(".card-own")


def test_there_is_a_card_for_every_adapter(visit, catalog):
    page = visit()
    open_tab(page)
    for adapter in catalog.base().adapters:
        card = page.locator(".card", has_text=adapter.description)
        expect(card).to_contain_text(adapter.label)
        for heading in ("Control", "Trained on", "Licence", "Base", "rank"):
            expect(card).to_contain_text(heading)


@pytest.mark.parametrize(
    "source", ["no/such/folder", "<img src=x/onerror=window.hacked=1>", "a/" + "b" * 200]
)
def test_what_cannot_be_an_adapter_is_refused(visit, address, source):
    page = visit(at=address)
    open_tab(page)
    find(page, source)
    expect(page.locator(".finder-message.fault")).to_contain_text("owner/name")
    assert page.evaluate("window.hacked") is None


def test_a_folder_without_an_adapter_says_what_is_missing(visit, tmp_path):
    page = visit()
    open_tab(page)
    find(page, str(tmp_path))
    expect(page.locator(".report[data-ok=false]")).to_contain_text("does not fit")
    expect(page.locator(".report li")).to_contain_text("adapter_config.json")


def test_a_search_a_check_a_slider_and_hearing_it_alone(visit, address, hub):
    page = visit(at=address)
    open_tab(page)
    find(page, "blackbeard")
    expect(page.locator(".finder-found li")).to_have_count(1)
    sent = hub.sent
    page.click(".finder-found button")
    expect(page.locator(".report[data-ok=true]")).to_contain_text("rank 8")
    assert hub.sent - sent < 1_000_000, "the weights came before they were asked for"
    page.click(".finder-add")
    expect(page.locator(".card-own")).to_have_count(1)
    page.get_by_role("button", name="Hear blackbeard alone").click()
    page.wait_for_selector(".live-status[data-phase=done]")
    expect(page.locator("#spare-0")).to_contain_text("blackbeard")
    added = page.locator(".card").count() - 1
    assert page.eval_on_selector("#live canvas", "(canvas) => canvas.composer.active()") == [added]
    # Somebody else sees nothing of it; whoever comes back has it.
    other = visit(at=address)
    expect(other.locator("#spare-0")).to_be_hidden()
    open_tab(other)
    expect(other.locator(".card-own")).to_have_count(0)
    page.click("#share-open")
    page.wait_for_function("document.querySelector('.share-url')?.value.includes('recipe=')")
    page.goto(page.input_value(".share-url"))
    expect(page.locator(".live-status")).to_contain_text("Everything stands as in the link")
    expect(page.locator("#spare-0 input[type=number]")).to_have_value("1")
    expect(page.locator("#spare-0")).to_contain_text("blackbeard")
    open_tab(page)
    page.get_by_role("button", name="Remove blackbeard").click()
    expect(page.locator(".card-own")).to_have_count(0)
    page.get_by_role("tab", name="Compose").click()
    expect(page.locator("#spare-0")).to_be_hidden()


def test_what_strangers_publish_is_shown_as_text(visit, address):
    page = visit(at=address)
    open_tab(page)
    find(page, "evil")
    expect(page.locator(".finder-found li")).to_contain_text("<img src=x")
    assert page.evaluate("window.hacked") is None


def test_what_a_strangers_card_says_is_shown_as_text(visit, address):
    page = visit(at=address)
    open_tab(page)
    find(page, "evil/card")
    expect(page.locator(".report")).to_contain_text("Licence")
    page.click(".finder-add")
    expect(page.locator(".card-own")).to_have_count(1)
    expect(page.locator(".card").first).to_contain_text("Licence")
    assert page.evaluate("window.hacked") is None and page.locator("main img[src=x]").count() == 0


def test_programs_search_check_and_use_adapters_of_the_hub(address):
    client = Client(address, verbose=False, httpx_kwargs={"timeout": 120})
    found = client.predict("blackbeard", api_name="/search_adapters")["found"]
    assert [each["id"] for each in found] == ["pirates/blackbeard"]
    checked = client.predict("pirates/blackbeard", api_name="/check_adapter")
    assert checked["fits"] and len(checked["revision"]) == 40
    answer = client.predict("The", {"pirates/blackbeard": 1}, max_new_tokens=3, api_name="/generate")
    assert answer["adapters"][-1] == "pirates/blackbeard"
    lane = [each[-1] for step in answer["contribution"] for each in step]
    assert max(lane) > 0
    swept = client.predict(
        "The", {}, sweep={"pirates/blackbeard": [0, 1, 2]}, max_new_tokens=3, api_name="/dose"
    )
    assert "pirates/blackbeard" in str(swept["rows"][0])


def test_two_visitors_have_two_adapters_in_the_same_slider(visit, address, catalog):
    one, two = visit(at=address), visit(at=address)
    for page, place in ((one, 0), (two, 3)):
        open_tab(page)
        add(page, os.path.join(ROOT, catalog.base().adapters[place].source))
    for page, name in ((one, "positive"), (two, "sports")):
        page.get_by_role("tab", name="Compose").click()
        expect(page.locator("#spare-0")).to_contain_text(name)
        set_slider(page, "spare-0", 1)
        page.fill("#prompt textarea", "The")
        page.click("#generate")
        page.wait_for_selector(".live-status[data-phase=done]")
        expect(page.locator(".live-legend")).to_contain_text(name)

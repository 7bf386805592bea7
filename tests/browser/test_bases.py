"""The menu of bases: a second one is loaded while a text is written on the first, and has its own page."""

from __future__ import annotations

import re

import pytest
import yaml
from gradio_client import Client
from playwright.sync_api import expect

from benchmarks.chromium import serving
from benchmarks.hands import set_slider
from composer.adapters.catalog import load_catalog
from composer.model.loading import locate
from tests.browser.conftest import ROOT
from tests.browser.hands import WRITING, findings

SECOND = "four-bits"
COUNT = "document.querySelector('#live canvas').composer.count"
ON_SECOND = f"**/base/{SECOND}/**"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A server whose catalog has the base, the same in 4 bits with fewer adapters, one whose files are
    damaged, and one that nobody has run."""
    folder = tmp_path_factory.mktemp("catalog")
    document = yaml.safe_load((ROOT / "adapters.yaml").read_text("utf-8"))
    name = document["default"]
    first = document["bases"][name]
    for each in first["adapters"].values():
        each["source"] = str(ROOT / each["source"])
    some = ("positive", "negative", "sports")
    second = {
        **first,
        "label": "Four bits",
        "folder": str(locate(load_catalog(ROOT / "adapters.yaml").base())[0]),
        "quantization": "nf4",
        "attributes": {"sentiment": first["attributes"]["sentiment"]},
        "adapters": {each: first["adapters"][each] for each in some},
    }
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{}")
    broken = {"id": "nobody/broken", "label": "Broken", "folder": str(folder / "broken"), "adapters": {}}
    unrun = {"id": "nobody/unrun", "label": "Not run", "verified": False, "adapters": {}}
    bases = {name: first, SECOND: second, "broken": broken, "unrun": unrun}
    (folder / "catalog.yaml").write_text(yaml.safe_dump({**document, "bases": bases}, sort_keys=False))
    settings = {"COMPOSER_CATALOG": str(folder / "catalog.yaml"), "COMPOSER_MAX_NEW_TOKENS": "4000"}
    with serving(**settings, COMPOSER_TIME_LIMIT="3600") as address:
        yield address


def choose(page, label):
    page.click(".base-open")
    page.locator(".base-option", has_text=label).click()


def test_the_menu_is_used_by_keyboard_and_says_why_a_base_cannot_be_chosen(visit, house):
    page = visit(at=house, opened=True)
    button = page.locator(".base-open")
    expect(button).to_have_accessible_name("Base model: SmolLM2 135M")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(page.locator(".base-option")).to_have_count(4)
    expect(page.locator(".base-option[aria-current=page]")).to_contain_text("This page")
    expect(page.locator(".base-option", has_text="Four bits")).to_contain_text("nf4 · 3 adapters")
    expect(page.locator(".base-option[aria-disabled]")).to_contain_text("Nobody of this project has run it")
    assert findings(page) == []
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    expect(page.locator(".base-option:focus b")).to_have_text("Four bits")
    page.keyboard.press("Escape")
    expect(page.locator(".base-panel")).to_be_hidden()
    expect(button).to_be_focused()


def test_a_base_that_cannot_be_loaded_is_a_sentence_and_the_page_stays(visit, house):
    page = visit(390, 844, at=house, opened=True, drops=True)
    prompt = page.input_value("#prompt textarea")
    choose(page, "Broken")
    said = page.locator(".base-status.base-fault")
    expect(said).to_contain_text("Broken: The base nobody/broken was found (folder) but could not be loaded")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.input_value("#prompt textarea") == prompt and "/base/" not in page.url
    page.click(".base-dismiss")
    expect(page.locator(".base-status")).to_be_hidden()
    page.click(".base-open")
    expect(page.locator(".base-option", has_text="Broken")).to_contain_text("could not be loaded")


@pytest.mark.timeout(2000)  # where two cores have other work, the load has a fifth of one
def test_a_second_base_is_loaded_while_a_text_is_written_and_the_mix_comes_along(visit, house):
    page = visit(at=house, drops=True)  # by leaving, in the middle of the text
    page.fill("#prompt textarea", "The match last night")
    for name, value in {"one-sports": 1.25, "one-world": 1}.items():
        set_slider(page, name, value)
    page.locator("#sampling button").first.click()
    for name, value in {"max-new-tokens": 4000, "temperature": 2, "top-p": 1, "top-k": 0}.items():
        set_slider(page, name, value)
    page.click("#generate")
    page.wait_for_function(WRITING)
    before = page.evaluate(COUNT)
    choose(page, "Four bits")
    expect(page.locator(".base-said")).to_have_text("Four bits is ready.", timeout=900_000)
    assert page.locator(".live-status").get_attribute("data-phase") == "writing"
    assert page.evaluate(COUNT) > before, "the text stood still while the other base was loaded"

    # The longer the text, the later a busy page comes to a click.
    page.click(".base-go", timeout=900_000)
    page.wait_for_url(ON_SECOND)
    expect(page.locator(".base-name")).to_have_text("Four bits")
    expect(page.locator(".live-status")).to_contain_text("Your prompt came along")
    expect(page.locator("#prompt textarea")).to_have_value("The match last night")
    expect(page.locator("#one-sports input[type=number]")).to_have_value("1.25")
    assert page.locator("#pair-sentiment").count() == 1 and page.locator("#one-world").count() == 0

    page.locator("#sampling button").first.click()
    set_slider(page, "max-new-tokens", 3)
    page.click("#generate")
    page.wait_for_selector(".live-status[data-phase=done]")
    assert 1 <= page.evaluate(COUNT) <= 3
    expect(page.locator(".live-layers")).to_be_visible()
    expect(page.locator("#contribution .js-plotly-plot")).to_be_visible()
    page.click("#share-open")
    expect(page.locator(".share-url")).to_have_value(re.compile(rf"^{house}/base/{SECOND}/\?recipe="))


def test_a_shared_link_of_the_second_base_opens_there_without_a_recording(visit, house):
    page = visit(at=house, opened=True, path=f"base/{SECOND}/")
    page.wait_for_url(ON_SECOND, timeout=900_000)  # by way of the first page, where it is not loaded
    expect(page.locator(".live-status")).to_contain_text("There is no recording of this base yet")
    expect(page.locator("#figures")).to_be_hidden()
    expect(page.locator(".live-layers")).to_be_hidden()
    page.fill("#prompt textarea", "The stadium")
    set_slider(page, "pair-sentiment", -1)
    page.click("#share-open")
    expect(page.locator(".share-url")).not_to_have_value("")
    link = page.input_value(".share-url")
    assert link.startswith(f"{house}/base/{SECOND}/?recipe=")
    other = visit(at=house, opened=True, path=f"base/{SECOND}/", query=f"&{link.partition('?')[2]}")
    expect(other.locator(".live-status")).to_contain_text("Everything stands as in the link")
    expect(other.locator("#prompt textarea")).to_have_value("The stadium")
    expect(other.locator("#pair-sentiment input[type=number]")).to_have_value("-1")


def test_each_base_answers_programs_at_its_own_address(house):
    answers = {}
    for path in ("", f"/base/{SECOND}"):
        client = Client(f"{house}{path}/", verbose=False, httpx_kwargs={"timeout": 120})
        answers[path] = client.predict("The match", {"sports": 1}, max_new_tokens=2, api_name="/generate")
    first, second = answers.values()
    assert len(second["adapters"]) == 3 < len(first["adapters"])
    assert second["text"]

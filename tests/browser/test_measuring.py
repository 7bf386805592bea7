"""Conflict, Dose and the ways out, as a newcomer uses them."""

from __future__ import annotations

import json
import re
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from peft import PeftModel
from playwright.sync_api import expect

from benchmarks.hands import set_slider
from composer import Engine
from composer.adapters.recipe import parse_recipe
from composer.model.loading import load_base
from composer.ui.components.template import component
from tests.browser.hands import findings

ATTACK = "<img src=x onerror='window.hacked=1'>"


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


def open_dose(page):
    open_tab(page, "Dose")
    expect(page.locator("#dose-first input")).to_have_value("Sports")  # the loudest


def pick(page, field, option):
    page.click(f"#{field} input")
    page.get_by_role("option", name=option).click()


def test_the_conflict_of_a_preset_in_words(visit, tmp_path):
    page = visit(opened=True)
    page.wait_for_selector(".live-status[data-phase=recorded]")
    open_tab(page, "Conflict")
    page.click("#conflict-go")
    page.wait_for_selector(".chart-card")
    told = page.locator(".chart-finding").all_inner_texts()
    assert len(told) == 4 and all(sentence.endswith(".") for sentence in told)
    assert "Positive and Sports" in told[0] and "cosine" in told[0]
    assert page.locator(".chart").count() == 4
    with page.expect_download() as saved:
        page.click("#conflict-results .chart-files button")
    found = json.loads(saved.value.path().read_text("utf-8"))
    assert found["composition"]["weights"]["positive"] == 1 and len(found["additivity_by_token"]) > 5
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download Which layers matter as PNG").click()
    assert saved.value.path().read_bytes().startswith(b"\x89PNG")


def test_nothing_on_the_sliders_is_a_sentence(visit):
    page = visit()
    open_tab(page, "Conflict")
    page.click("#conflict-go")
    expect(page.locator("#conflict-results .fault")).to_contain_text("Every slider is at 0")
    page.get_by_role("tab", name="Compose").click()
    page.fill("#prompt textarea", ATTACK)
    set_slider(page, "one-sports", 1)
    open_tab(page, "Conflict")
    page.click("#conflict-go")
    page.wait_for_selector(".chart-card")
    expect(page.locator(".conflict-text")).to_contain_text(ATTACK)
    assert page.evaluate("window.hacked") is None


def test_a_sweep_grows_can_be_stopped_and_downloaded(visit):
    page = visit(opened=True)
    page.wait_for_selector(".live-status[data-phase=recorded]")
    open_dose(page)
    pick(page, "dose-prompts", "15 openings")
    page.click("#dose-go")
    expect(page.locator("#dose-results .finder-message")).to_have_text(
        re.compile(r"^[1-9]\d* of 135 texts, about")
    )
    page.wait_for_selector("#dose-results .chart")
    page.click("#dose-stop")
    page.wait_for_selector("#dose-results .chart-files:not([hidden])")
    written = int(page.inner_text("#dose-results .finder-message").split()[0])
    assert 0 < written < 135
    with page.expect_download() as saved:
        page.click("#dose-results [data-file=json]")
    assert len(json.loads(saved.value.path().read_text("utf-8"))["texts"]) == written


@pytest.mark.parametrize("stem", ["dose", "compare", "conflict"])
def test_what_was_on_its_way_when_stop_was_pressed_is_passed_over(chromium, stem):
    made = component(stem, {}, stem, () if stem == "compare" else ("charts.js",))
    page = chromium.new_page()
    page.set_content(f"<main>{made.html_template}</main>")
    page.evaluate(
        """script => {
          window.props = { value: { columns: [], message: "" } };
          const run = new Function("element", "props", "watch", "trigger", script);
          run(document.querySelector("main"), props, (_, show) => { window.show = show; }, () => {});
        }""",
        made.js_on_load,
    )
    hidden = page.locator("[hidden]", has_text="Download")

    def shows(message, **value):
        given = {"columns": [], "files": {}, "file": "", "message": message, **value}
        page.evaluate("value => { props.value = value; show(); }", given)
        return message in page.inner_text("main")

    assert shows("Waiting", busy=True, begins=True) and shows("3 of 9", busy=True) and hidden.count() == 1
    assert shows("Stopped", files={"csv": "a", "json": "{}"}, file="{}") and hidden.count() == 0
    assert not shows("4 of 9", busy=True) and hidden.count() == 0 and "Stopped" in page.inner_text("main")
    assert shows("Waiting", busy=True, begins=True) and shows("1 of 9", busy=True) and hidden.count() == 1
    page.close()


def test_a_sweep_of_two_ends_with_a_heat_map(visit):
    page = visit(opened=True)
    page.wait_for_selector(".live-status[data-phase=recorded]")
    open_dose(page)
    pick(page, "dose-second", "Positive")
    pick(page, "dose-points", "5 weights")
    pick(page, "dose-prompts", "the prompt under Compose")
    page.click("#dose-go")
    page.wait_for_selector("#dose-results .chart-files:not([hidden])", timeout=120_000)
    assert page.locator("#dose-results .chart").first.locator("rect").count() >= 25
    expect(page.locator("#dose-results .chart-finding").first).to_contain_text("weet spot")


def test_others_texts_come_before_a_sweep(visit):
    sweeping, writing = visit(opened=True), visit()
    sweeping.wait_for_selector(".live-status[data-phase=recorded]")
    open_dose(sweeping)
    sweeping.click("#dose-go")
    sweeping.wait_for_selector("#dose-results .chart")
    writing.fill("#prompt textarea", "The")
    set_slider(writing, "one-sports", 1)
    writing.locator("#sampling button").first.click()
    set_slider(writing, "max-new-tokens", 10)
    writing.click("#generate")
    writing.wait_for_selector(".live-status[data-phase=done]", timeout=60_000)
    sweeping.click("#dose-stop")


def test_hostile_numbers_in_a_sweep_are_a_sentence(visit):
    page = visit(opened=True)
    page.wait_for_selector(".live-status[data-phase=recorded]")
    open_dose(page)
    for low, high in pairwise(("9", "1", "-99")):
        page.fill("#dose-low input", low)
        page.fill("#dose-high input", high)
        page.click("#dose-go")
        expect(page.locator("#dose-results .fault")).to_contain_text("weight")
    page.fill("#dose-low input", "0")
    page.fill("#dose-high input", "1")
    pick(page, "dose-points", "5 weights")
    pick(page, "dose-prompts", "my own")
    page.fill("#dose-own textarea", f"{ATTACK}\n{{{{7*7}}}}")
    page.click("#dose-go")
    page.wait_for_selector("#dose-results .chart-files:not([hidden])")
    expect(page.locator("#dose-results .finder-message")).to_contain_text("10 of 10 texts")
    assert page.evaluate("window.hacked") is None


def test_what_is_exported_is_a_peft_adapter(visit, tmp_path):
    page = visit()
    set_slider(page, "one-sports", 0.5)
    set_slider(page, "pair-sentiment", 0.75)
    page.click("#share-open")
    page.click("#share-export")
    with page.expect_download() as saved:
        page.locator("#share-out a").first.click()
    zipfile.ZipFile(saved.value.path()).extractall(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))
    assert config["peft_type"] == "LORA" and len(config["target_modules"]) == 210
    recipe = parse_recipe((tmp_path / "recipe.yaml").read_text("utf-8"))
    assert recipe.composition.weights == {"positive": 0.75, "sports": 0.5}
    engine = Engine.from_catalog()
    ours = engine.next_token_logits("The match", recipe.composition)
    ids = torch.tensor([engine.base.encode("The match")])
    with torch.no_grad():
        bare = load_base(engine.base.spec).model
        theirs = PeftModel.from_pretrained(bare, tmp_path)(ids).logits[0, -1].numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-3)


@pytest.mark.parametrize(("width", "height", "theme"), [(1280, 800, "light"), (390, 844, "dark")])
def test_axe_has_no_serious_findings_and_nothing_sticks_out(visit, width, height, theme):
    page = visit(width, height, theme, opened=True)
    page.wait_for_selector(".live-status[data-phase=recorded]")
    found = []
    open_tab(page, "Conflict")
    page.click("#conflict-go")
    page.wait_for_selector(".chart-card")
    found += findings(page)
    open_dose(page)
    pick(page, "dose-points", "5 weights")
    pick(page, "dose-prompts", "the prompt under Compose")
    page.click("#dose-go")
    page.wait_for_selector("#dose-results .chart-files:not([hidden])")
    found += findings(page)
    open_tab(page, "Adapters")
    page.wait_for_selector(".card")
    found += findings(page)
    open_tab(page, "Learn")
    found += findings(page)
    page.get_by_role("button", name="Start lesson 6").click()
    page.wait_for_selector(".lesson-term")
    found += findings(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not found, "\n".join(found)

"""Adapters added on the page. Last of the browser tests, since an added adapter stays for all."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect


def open_shelf(page):
    page.get_by_role("tab", name="Adapters").click()
    page.wait_for_selector("#add-source")


def add(page, source):
    page.fill("#add-source input, #add-source textarea", source)
    page.click("#add-button")


def test_there_is_a_card_for_every_adapter(visit, catalog):
    page = visit()
    open_shelf(page)
    for adapter in catalog.base().adapters:
        card = page.locator(".card", has_text=adapter.description)
        expect(card).to_contain_text(adapter.label)
        expect(card).to_contain_text("rank")


@pytest.mark.parametrize("source", ["nothing", "<img src=x onerror=window.hacked=1>", "no/such/folder"])
def test_what_cannot_be_an_adapter_is_refused(visit, source):
    page = visit()
    open_shelf(page)
    add(page, source)
    expect(page.locator(".report[data-ok=false]")).to_contain_text("owner/name")
    assert page.evaluate("window.hacked") is None


def test_a_folder_without_an_adapter_says_what_is_missing(visit, tmp_path):
    page = visit()
    open_shelf(page)
    add(page, str(tmp_path))
    expect(page.locator(".report[data-ok=false]")).to_contain_text("does not fit")
    expect(page.locator(".report li")).to_contain_text("adapter_config.json")


def test_an_added_adapter_gets_a_slider_and_takes_part(visit, catalog):
    page = visit()
    open_shelf(page)
    add(page, catalog.base().adapters[0].source)
    expect(page.locator(".report[data-ok=true]")).to_contain_text("fits")
    page.get_by_role("tab", name="Compose").click()
    page.fill("#prompt textarea", "The movie")
    field = page.locator("#spare-0 input[type=number]")
    field.fill("1")
    field.press("Tab")
    page.locator("#sampling button").first.click()
    page.locator("#max-new-tokens input[type=number]").fill("2")
    page.locator("#max-new-tokens input[type=number]").press("Tab")
    page.click("#generate")
    page.wait_for_selector(".live-status[data-phase=done]")
    added = len(catalog.base().adapters)
    active = page.eval_on_selector("#live canvas", "(canvas) => canvas.composer.active()")
    assert active == [added]
    expect(visit().locator("#spare-0")).to_be_visible()

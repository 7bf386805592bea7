"""Several visitors of one page: each gets the words they would get alone, and a full house is fair."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from benchmarks.chromium import serving
from benchmarks.hands import set_slider
from composer import Composition, Sampling
from tests.browser.hands import WRITING

PHASE = "document.querySelector('.live-status').dataset.phase"
LONG = 1000


@pytest.fixture(scope="module")
def small_house():
    """A server that writes one text at a time and lets one visitor wait."""
    settings = {
        "COMPOSER_SLOTS": "1",
        "COMPOSER_QUEUE_SIZE": "1",
        "COMPOSER_MAX_NEW_TOKENS": str(LONG),
        "COMPOSER_TIME_LIMIT": "3600",
    }
    with serving(**settings) as address:
        yield address


def ask(page, prompt, number, **fields):
    """Fill in a request and press Generate. fields: values by the id of their widget."""
    page.fill("#prompt textarea", prompt)
    page.locator("#sampling button").first.click()
    for name, value in {"max-new-tokens": number, **fields}.items():
        set_slider(page, name, value)
    page.click("#generate")


def ask_for_long(page):
    """A text that does not end by itself: all words are nearly equally likely."""
    ask(page, "Once", LONG, **{"temperature": 2, "top-p": 1, "top-k": 0})


def wait(page, phase):
    page.wait_for_selector(f".live-status[data-phase={phase}]")


def text(page):
    return page.text_content(".live-tokens")


def knock(client):
    """Ask until the house lets one in; the job that has a place, if only in the queue."""
    while True:
        job = client.submit("And I", {}, max_new_tokens=3, api_name="/generate")
        if next(job, None) is not None:
            return job
        assert "Server busy" in str(job.exception())


def test_two_visitors_are_served_at_the_same_time(visit, real_engine):
    one, other, onlooker = visit(), visit(), visit()
    sports = replace(real_engine.base.spec.default_composition, weights={"sports": 1})
    ask(one, "The match last night", 150, seed=5, **{"one-sports": 1})
    one.wait_for_function(WRITING)
    ask(other, "The government announced", 40, seed=6)
    other.wait_for_function(WRITING)
    assert one.evaluate(PHASE) == other.evaluate(PHASE) == "writing", "one of them had to wait for the other"
    for page, prompt, composition, sampling in (
        (one, "The match last night", sports, Sampling(150, seed=5)),
        (other, "The government announced", Composition(), Sampling(40, seed=6)),
    ):
        wait(page, "done")
        page.wait_for_selector("#fusion .js-plotly-plot .scatterlayer")
        page.wait_for_selector("#contribution .js-plotly-plot")
        *_, last = real_engine.generate(prompt, composition, sampling)
        assert page.text_content(".live-tokens") == last.text
    assert onlooker.evaluate(PHASE) == "recorded", "somebody else's run is shown"


def test_a_full_server_tells_every_visitor_what_to_do(visit, small_house):
    first, second, third = (visit(at=small_house) for _ in range(3))
    ask_for_long(first)
    wait(first, "writing")
    ask(second, "Next", 3)
    wait(second, "waiting")
    expect(second.locator(".live-status")).to_have_text("The only slot is busy. You are 1st in the queue.")
    ask(third, "One too many", 3)
    wait(third, "error")
    expect(third.locator(".live-status")).to_contain_text("Server busy")
    first.click("#stop")
    wait(first, "stopped")
    wait(second, "done")
    assert second.text_content(".live-tokens")


def test_closing_the_page_frees_the_slot(visit, small_house):
    writing, waiting = visit(at=small_house), visit(at=small_house)
    client = Client(small_house, verbose=False, httpx_kwargs={"timeout": 120})
    ask_for_long(writing)
    wait(writing, "writing")
    ask(waiting, "Next", 3)
    wait(waiting, "waiting")
    with pytest.raises(AppError, match="Server busy"):
        client.predict("Me too", {}, api_name="/generate")
    waiting.close()
    newcomer = knock(client)
    assert newcomer.outputs()[0] == {"text": "", "count": 0, "place": 1}
    writing.close()
    assert newcomer.result()["count"] == 3

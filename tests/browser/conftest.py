"""One real server for all browser tests, one Chromium, and pages that must behave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

from benchmarks.chromium import chromium, serving
from benchmarks.hands import clear_sliders

ROOT = Path(__file__).parents[2]
# Two cores serve two browsers and two models while all tests run.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="package")
def server():
    """The address of app.py, started as a visitor would start it. It ends when other tests are next: two of
    them beside the bench's processes would not fit into the memory."""
    with serving(COMPOSER_MAX_NEW_TOKENS="600") as address:
        yield address


@pytest.fixture(scope="package", name="chromium")
def running_chromium():
    """A running headless Chromium. It ends when other tests are next: while it runs, this thread has an event
    loop, and they could not start their own."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(request, chromium):
    """visit(width, height, theme, at, opened, query, path, hold) -> a page with the composer ready, of the
    common server or of the one at that address. Fails the test for any console error, script error and
    request to another host.

    drops: the connection will be cut, of which Gradio tells the console. opened: leave the page as it opens,
    on its recording; else every slider is at 0, as most tests want it. hold: a list that keeps what the page
    asks its server to do, until page.unroute."""
    contexts, faults = [], []

    def open_page(
        width=1280,
        height=800,
        theme="light",
        at=None,
        opened=False,
        query="",
        drops=False,
        path="",
        hold=None,
    ):
        at = at or request.getfixturevalue("server")
        motion = "no-preference" if opened else "reduce"  # reduced motion shows a recording at once
        context = chromium.new_context(viewport={"width": width, "height": height}, reduced_motion=motion)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
        if not drops:
            page.on(
                "console", lambda line: faults.append(f"console: {line.text}") if _is_error(line) else None
            )
        if hold is not None:
            page.route("**/queue/join*", lambda route: hold.append(route))  # playwright takes no bound method
        page.on("request", lambda sent: None if _is_ours(sent.url, at) else faults.append(f"to {sent.url}"))
        page.goto(f"{at}/{path}?__theme={theme}{query}")
        page.wait_for_selector(".live-status[data-phase]")
        if not opened:
            # So that a test says itself what it sets.
            clear_sliders(page, "pair-sentiment", "one-sports")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def _is_error(line) -> bool:
    # A stream that the page itself cancelled is reported by Chromium as a failed load.
    return line.type == "error" and "ERR_ABORTED" not in line.text


def _is_ours(url: str, server: str) -> bool:
    return url.startswith((server, "data:", "blob:"))


@pytest.fixture(scope="session")
def catalog():
    """The base and the examples that the server's page is made from."""
    from composer.adapters.catalog import load_catalog

    return load_catalog(ROOT / os.environ.get("COMPOSER_CATALOG", "adapters.yaml"))

"""One real server for all browser tests, one Chromium, and pages that must behave."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = (
    400  # seconds for a loaded machine to import torch, load the base and serve; ends earlier when it can
)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of app.py, started as a visitor would start it."""
    with serving(tmp_path_factory.mktemp("server") / "log", COMPOSER_MAX_NEW_TOKENS="150") as address:
        yield address


@contextmanager
def serving(log: Path, **settings: str) -> Iterator[str]:
    """app.py with these environment variables, until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A compiler beside the browser would slow down everything these tests wait for.
    ours = {"HOST": "127.0.0.1", "PORT": str(port), "COMPOSER_COMPILE": "0"}
    env = {**os.environ, **ours, **settings}
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stdout=out, stderr=out)
        try:
            yield _when_ready(process, f"http://127.0.0.1:{port}", log)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _when_ready(process: subprocess.Popen, address: str, log: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return address
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            pass
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"app.py ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    pytest.fail(f"app.py did not answer within {PATIENCE} s:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def chromium():
    """A running headless Chromium."""
    names = (os.environ.get("CHROMIUM", "chromium"), "chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.fail(
            "The browser tests need Chromium: on Debian `sudo apt-get install chromium`, "
            "elsewhere install Chromium or Chrome and name it in CHROMIUM."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(server, chromium):
    """visit(width, height, theme, at, opened, query) -> a page with the composer ready, of the common server
    or of the one at that address. Fails the test for any console error, script error and request to another
    host.

    drops: the connection will be cut, of which Gradio tells the console. opened: leave the page as it opens,
    on its recording; else every slider is at 0, as most tests want it."""
    contexts, faults = [], []

    def open_page(width=1280, height=800, theme="light", at=server, opened=False, query="", drops=False):
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
        page.on("request", lambda sent: None if _is_ours(sent.url, at) else faults.append(f"to {sent.url}"))
        page.goto(f"{at}/?__theme={theme}{query}")
        page.wait_for_selector(".live-status[data-phase]")
        if not opened:
            blank(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def blank(page):
    """Every slider at 0, so that a test says itself what it sets."""
    page.click("#zero")
    for field in ("pair-sentiment", "one-sports"):
        expect(page.locator(f"#{field} input[type=number]")).to_have_value("0")


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

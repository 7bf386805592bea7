"""The page as a visitor has it: app.py in a process of its own, and a headless Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from composer.core.errors import ComposerError

ROOT = Path(__file__).parents[1]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
# Seconds for a loaded machine to import torch, load the base and serve; waiting ends earlier when it can.
PATIENCE = 400
# What the log of a page says when it writes at full speed, if it has a compiler.
COMPILED = "the decoding step is compiled"
# Of a log, as much as is searched for words that it begins with.
LOG_BYTES = 1_000_000


@contextmanager
def serving(*, logged: str = "", **settings: str) -> Iterator[str]:
    """The address of app.py with these environment variables, until the end of the block.

    logged: words of its log that are waited for, too. Raises ComposerError, with the end of its log, where
    it does not start or does not write them.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A compiler beside the browser would slow down everything that is waited for.
    ours = {"HOST": "127.0.0.1", "PORT": str(port), "COMPOSER_COMPILE": "0"}
    env = {**os.environ, **ours, **settings}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stdout=log, stderr=log)
        try:
            if not answers(process, port) or not writes(process, log, logged):
                log.seek(0)
                raise ComposerError(f"The page did not start:\n{log.read()[-3000:]}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def answers(process: subprocess.Popen, port: int) -> bool:
    """Whether the server answers on its port, as soon as it does."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
            return False
    return False


def writes(process: subprocess.Popen, log: TextIO, words: str) -> bool:
    """Whether the log gets the words, as soon as it does."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        # The process writes at the place that a seek would move.
        if words.encode() in os.pread(log.fileno(), LOG_BYTES, 0):
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
            return False
    return False


@contextmanager
def chromium() -> Iterator[Any]:
    """A running headless Chromium. Raises ComposerError where there is none."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", "chromium"), *NAMES))), None)
    if path is None:
        raise ComposerError(
            "This needs Chromium: on Debian `sudo apt-get install chromium`, elsewhere install Chromium or "
            "Chrome and name it in the variable CHROMIUM."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()

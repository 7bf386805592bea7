"""The README's pictures: python -m benchmarks.film assets

A headless Chromium opens the page, lets the recording play, points at words and moves a slider: page.webp.
Then each other tab does its work once: compare.png, conflict.png, dose.png, adapters.png and learn.png.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks.chromium import COMPILED, chromium, serving
from benchmarks.hands import write_until_passed

MOVING = "page.webp"
SIZE = (1280, 800)
SHOWN = (960, 600)
FRAME_MS = 140
QUALITY = 62
# Draws of a new seed until a lesson's text has what it asks for.
TRIES = 8
# Milliseconds for a text of a busy machine.
PATIENCE = 120_000


def film(folder: Path) -> int:
    """Make both files; returns how many frames the moving one has."""
    frames: list[Image.Image] = []
    compiled = serving(logged=COMPILED, COMPOSER_COMPILE="1")
    with compiled as address, chromium() as browser:
        page = browser.new_context(viewport={"width": SIZE[0], "height": SIZE[1]}).new_page()

        def shoot(count: int = 1) -> None:
            for _ in range(count):
                picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                frames.append(picture.resize(SHOWN, Image.Resampling.LANCZOS))

        page.goto(address)
        page.wait_for_function("document.querySelectorAll('.live-token').length > 1")
        while page.get_attribute(".live-status", "data-phase") == "playing":
            shoot()
        shoot(3)
        for word in (2, 9):
            page.locator(".live-token").nth(word).click()
            shoot(7)
        page.locator(".live-token").nth(9).click()
        for weight in (0.75, 0.25, 0, 0.5, 1.25):
            field = page.locator("#one-sports input[type=number]")
            field.fill(str(weight))
            field.press("Tab")
            page.locator("#one-sports input[type=range]").dispatch_event("pointerup")
            page.wait_for_timeout(300)
            shoot(3)
        folder.mkdir(parents=True, exist_ok=True)
        for take in (compare, conflict, dose, adapters, learn):
            take(page)
            page.screenshot(path=folder / f"{take.__name__}.png", full_page=take is not adapters)
    first, *rest = frames
    options = {"duration": FRAME_MS, "loop": 0, "quality": QUALITY, "method": 4}
    first.save(folder / MOVING, save_all=True, append_images=rest, **options)
    return len(frames)


def compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare-go")
    page.wait_for_selector(".compare-files:not([hidden])", timeout=120_000)


def conflict(page: Page) -> None:
    page.get_by_role("tab", name="Conflict").click()
    page.click("#conflict-go")
    page.wait_for_selector(".chart-card", timeout=120_000)


def dose(page: Page) -> None:
    page.get_by_role("tab", name="Dose").click()
    page.click("#dose-prompts input")
    page.get_by_role("option", name="15 openings").click()
    page.click("#dose-go")
    page.wait_for_selector("#dose-results .chart-files:not([hidden])", timeout=300_000)


def adapters(page: Page) -> None:
    page.get_by_role("tab", name="Adapters").click()
    page.wait_for_selector(".card")


def learn(page: Page) -> None:
    page.get_by_role("tab", name="Learn").click()
    page.get_by_role("button", name="Start lesson 6").click()
    page.wait_for_selector(".lesson-term")
    page.click("#method input")
    page.get_by_role("option", name="Outputs · Contrast").click()
    page.wait_for_timeout(500)
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    if not write_until_passed(page, TRIES):
        raise SystemExit("Lesson 6 did not pass; look at what contrast does with its prompt.")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.film", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    count = film(folder)
    print(f"{MOVING}: {count} frames, {(folder / MOVING).stat().st_size / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()

"""What hands do on the page that tests, the soak and the film ask for."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect


def set_slider(page: Page, name: str, value: float, longest: float = 30_000) -> None:
    """Type a slider's number; again, where a page that was still loading put its own back.

    longest: milliseconds that the last try is given. Raises AssertionError where it does not stay.
    """

    def type_it(patience: float) -> None:
        field = page.locator(f"#{name} input[type=number]")
        if not field.is_visible() and page.locator(f"#mix #{name}").count():
            page.click("#more-adapters")
        field.fill(str(value))
        field.press("Tab")
        for half in page.locator(f"#{name} input").all():  # a slider's number and its handle
            expect(half).to_have_value(f"{value:g}", timeout=patience)

    try_again(type_it, longest)


def clear_sliders(page: Page, *witnesses: str, longest: float = 30_000) -> None:
    """Press All to 0 until the sliders called `witnesses` stay there. Otherwise as set_slider."""

    def press(patience: float) -> None:
        page.click("#zero")
        for name in witnesses:
            expect(page.locator(f"#{name} input[type=number]")).to_have_value("0", timeout=patience)

    try_again(press, longest)


def write_in_lesson(page: Page) -> bool:
    """Generate, until the page has said what it says of the lesson. Returns whether it passed."""
    page.evaluate("document.querySelector('.lesson-verdict').textContent = ''")
    page.click("#generate")
    page.wait_for_selector(".live-status[data-phase=done], .live-status[data-phase=stopped]")
    expect(page.locator(".lesson-verdict")).not_to_be_empty()
    return page.get_attribute(".lesson-verdict", "data-passed") == "true"


def write_until_passed(page: Page, tries: int) -> bool:
    """Write with one drawn seed after another, since a text is a text. Returns whether the lesson passed."""
    for _ in range(tries):
        if write_in_lesson(page):
            return True
        if not page.locator("#dice").is_visible():
            page.locator("#sampling button").first.click()
        page.click("#dice")
    return False


def try_again(act: Callable[[float], None], longest: float) -> None:
    """Do what a page that is still loading may undo, each time with more patience (milliseconds)."""
    for patience in (3_000, 10_000):
        try:
            return act(patience)
        except AssertionError:
            pass
    act(longest)

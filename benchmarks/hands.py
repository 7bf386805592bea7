"""What hands do on the page that a test and the soak both ask for."""

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


def try_again(act: Callable[[float], None], longest: float) -> None:
    """Do what a page that is still loading may undo, each time with more patience (milliseconds)."""
    for patience in (3_000, 10_000):
        try:
            return act(patience)
        except AssertionError:
            pass
    act(longest)

"""What a visitor's hands do that more than one test asks for."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

# The page has the first words of a text that is being written.
WRITING = (
    "(({status, columns}) => status.phase === 'writing' && columns.length >= 2)"
    "(document.querySelector('#live canvas').composer)"
)


def set_slider(page, name, value):
    """Type a slider's number; again, where a page that was still loading put its own back."""
    for patience in (3_000, 10_000, 30_000):
        field = page.locator(f"#{name} input[type=number]")
        if not field.is_visible() and page.locator(f"#mix #{name}").count():
            page.click("#more-adapters")
        field.fill(str(value))
        field.press("Tab")
        try:
            for half in page.locator(f"#{name} input").all():  # a slider's number and its handle
                expect(half).to_have_value(f"{value:g}", timeout=patience)
            return
        except AssertionError:
            if patience == 30_000:
                raise


def findings(page) -> list[str]:
    """axe-core's serious findings, one line each."""
    results = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['failureSummary'][:300]}"
        for each in results
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]

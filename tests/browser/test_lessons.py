"""Each lesson, done on the real controls until the page's own check passes."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from benchmarks.hands import set_slider, write_in_lesson, write_until_passed

# Draws of a new seed that a lesson may take: three of five texts pass, by chance.
TRIES = 8


def start(page, place):
    page.get_by_role("tab", name="Learn").click()
    page.get_by_role("button", name=f"Start lesson {place}").click()
    expect(page.locator(".lesson-place")).to_have_text(f"Lesson {place} of 6")


def passed(page) -> bool:
    return page.get_attribute(".lesson-verdict", "data-passed") == "true"


def until_it_passes(page):
    assert write_until_passed(page, TRIES), f"the check did not pass: {page.inner_text('.lesson-verdict')}"


def choose(page, method):
    page.click("#method input")
    page.get_by_role("option", name=method).first.click()


@pytest.fixture
def page(visit):
    return visit(opened=True)


def test_a_formula_stands_in_its_line(visit):
    page = visit()
    page.get_by_role("tab", name="Learn").click()
    page.locator("p .katex").first.wait_for()
    lines = page.locator("p:has(.katex)").evaluate_all(
        """(all) => all.map((p) => [
            p.getBoundingClientRect().height, parseFloat(getComputedStyle(p).lineHeight), p.textContent.length
        ])"""
    )
    assert lines
    assert all(height < line * (characters / 100 + 1.5) for height, line, characters in lines)


def test_one_slider(page):
    start(page, 1)
    expect(page.locator(".lesson-formula")).to_contain_text("the base alone")
    write_in_lesson(page)
    assert not passed(page), "the base alone passed"
    set_slider(page, "pair-sentiment", 1.25)
    expect(page.locator(".lesson-formula")).to_contain_text("1.25 · B A x Positive")
    until_it_passes(page)
    expect(page.locator(".lesson-verdict")).to_contain_text("of the base's own output in layer")
    page.click(".lesson-next")
    expect(page.locator(".lesson-place")).to_have_text("Lesson 2 of 6")
    page.click(".lesson-leave")
    expect(page.locator(".lesson-words")).to_have_count(0)
    page.get_by_role("tab", name="Learn").click()
    expect(page.locator(".lesson-card").first).to_contain_text("passed")


def test_a_sum_is_not_a_merge(page):
    start(page, 2)
    write_in_lesson(page)
    assert not passed(page)
    choose(page, "Exact concatenation")
    write_in_lesson(page)
    assert not passed(page), "a concatenation is the sum"
    choose(page, "PEFT linear")
    write_in_lesson(page)
    assert passed(page), page.inner_text(".lesson-verdict")


def test_who_wins_a_conflict(page):
    start(page, 3)
    write_in_lesson(page)
    assert not passed(page)
    set_slider(page, "pair-sentiment", -1)
    set_slider(page, "one-sports", 1.25)
    until_it_passes(page)


def test_what_kl_fusion_sees(page):
    start(page, 4)
    write_in_lesson(page)
    assert not passed(page), page.inner_text(".lesson-verdict")
    page.fill("#prompt textarea", "The food was")
    write_in_lesson(page)
    assert passed(page), page.inner_text(".lesson-verdict")


def test_what_breaks(page):
    start(page, 5)
    write_in_lesson(page)
    assert not passed(page)
    set_slider(page, "pair-sentiment", 2)
    page.locator("#shape button").first.click()
    set_slider(page, "strength", 1.5)
    until_it_passes(page)


def test_subtracting_the_opposite(page):
    start(page, 6)
    write_in_lesson(page)
    assert not passed(page)
    choose(page, "Outputs · Contrast")
    expect(page.locator(".lesson-formula")).to_contain_text("0.38 · its opposite of Positive")
    until_it_passes(page)

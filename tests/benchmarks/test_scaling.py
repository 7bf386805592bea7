"""docs/SCALING.md: its tables are those of the measured figures, and its arithmetic is what it says."""

from __future__ import annotations

import pytest

from benchmarks import scaling


def test_the_page_has_the_tables_of_the_measured_figures():
    text = scaling.FILE.read_text("utf-8")
    assert f"{scaling.START}\n{scaling.tables()}\n{scaling.END}" in text


@pytest.mark.parametrize("setup", scaling.setups(), ids=lambda each: each.label)
def test_machines_keep_up_and_one_fewer_would_not(setup):
    for visitors in scaling.VISITORS:
        machines, planned = setup.machines(visitors), setup.tokens_a_second / 2
        assert machines * planned >= visitors
        assert machines == 1 or (machines - 1) * planned < visitors
        assert setup.burst(visitors) == pytest.approx(visitors * 60 / (machines * setup.tokens_a_second))
    hours = 60_000 / planned / 3600
    assert setup.a_thousand_texts == pytest.approx(hours * setup.price_an_hour)


def test_figures_that_the_prose_names_are_the_tables_own():
    text = scaling.FILE.read_text("utf-8")
    small, full, nf4 = scaling.setups()
    assert f"{small.burst(30):.1f} s by two cores" in text
    assert round(60 * small.tokens_a_second / 2, -3) == 13_000 and "13,000 on two" in text
    assert full.machines(100_000) * full.fetched == pytest.approx(3e12, rel=0.1)
    assert nf4.machines(100_000) / full.machines(100_000) == pytest.approx(3, rel=0.1)

"""After a shortage of memory fewer texts go on together, soon as many as before unless that was too many."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

from composer.engine.capacity import LONGEST, SHORTEST, Capacity


@pytest.fixture
def clock():
    return SimpleNamespace(now=0.0)


@pytest.fixture
def capacity(clock):
    return Capacity(32, lambda: clock.now)


def after(capacity, clock, seconds):
    clock.now += seconds
    capacity.grow()
    return capacity.branches


def test_all_slots_are_tried_until_memory_is_short(capacity, clock):
    assert after(capacity, clock, 1000) == 32


def test_a_moment_s_shortage_is_over_in_a_few_pauses(capacity, clock):
    capacity.shrink(20)
    assert after(capacity, clock, SHORTEST / 2) == 10
    assert after(capacity, clock, SHORTEST / 2) == 20
    assert after(capacity, clock, SHORTEST) == 32


def test_one_always_goes_on(capacity):
    capacity.shrink(1)
    assert capacity.branches == 1


def test_a_lasting_shortage_is_tried_less_and_less_often(capacity, clock):
    """Memory for ten, and more always want to run."""
    tried, shortages = [], 0
    for _ in range(3600):
        if after(capacity, clock, 1) > 10:
            tried.append(clock.now)
            capacity.shrink(capacity.branches)
            shortages += 1
    pauses = [later - sooner for sooner, later in pairwise(tried)]
    assert pauses == sorted(pauses) and pauses[-1] == pytest.approx(LONGEST, abs=1)
    assert shortages < 3600 / LONGEST + 8


def test_a_shortage_long_after_the_last_is_a_new_one(capacity, clock):
    for _ in range(6):
        capacity.shrink(32)
        after(capacity, clock, LONGEST)
    after(capacity, clock, 10 * LONGEST)
    capacity.shrink(32)
    assert after(capacity, clock, SHORTEST) == 32

"""Small pieces of work share turns with a server's texts: as many at a time as a slice takes."""

from __future__ import annotations

from functools import partial

import pytest

from composer.core.composition import Composition
from composer.engine.execution import SLICE, in_turn, place_in_line, run_inline
from tests.tools import tiny


class Clock:
    """Each look at it is so many seconds after the last."""

    def __init__(self, step: float):
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize(("each", "expected"), [(SLICE / 4, 6), (2 * SLICE, 21), (0.0, 2)])
def test_a_turn_has_as_many_pieces_as_a_slice_takes(each, expected):
    """20 pieces, and the turn that finds nothing left."""
    calls = []

    def execute(work):
        calls.append(work)
        return work()

    pieces = (partial(int, number) for number in range(20))
    assert list(in_turn(pieces, execute, Clock(each))) == list(range(20))
    assert len(calls) == expected


@pytest.mark.parametrize(("waited", "pieces"), [(0.0, 2), (0.5, 10), (60.0, 40)])
def test_who_waits_long_for_a_turn_has_a_longer_one(waited, pieces):
    """A piece takes half a slice; 40 of them are the longest turn."""
    clock, lengths = Clock(0.0), []

    def execute(work):
        clock.now += waited
        lengths.append(len(made := work()))
        return made

    def piece():
        clock.now += SLICE / 2

    list(in_turn([piece] * 80, execute, clock))
    assert lengths[0] == pytest.approx(pieces, abs=1)


def test_long_work_lets_by_what_came_in_the_first_half_of_its_time():
    assert place_in_line(100.0, lambda: 100.0) == 100.0
    assert 103.0 < place_in_line(100.0, lambda: 110.0) < 107.0


def test_a_piece_that_fails_ends_it_with_its_fault():
    done = []
    with pytest.raises(ZeroDivisionError):
        for each in in_turn([lambda: 1, lambda: 1 // 0, lambda: 3], run_inline, Clock(2 * SLICE)):
            done.append(each)
    assert done == [1]


def test_nothing_is_done_after_the_executor_refused():
    made = []

    def refuse(work):
        if made:
            raise RuntimeError("left")
        return work()

    with pytest.raises(RuntimeError):
        list(in_turn([partial(made.append, number) for number in range(9)], refuse, Clock(2 * SLICE)))
    assert made == [0]


def test_a_merge_of_many_sites_takes_few_turns(tmp_path):
    folders = tiny.three_unlike(tmp_path, "llama")
    engine = tiny.engine("llama", folders)
    calls = []

    def execute(work):
        calls.append(work)
        return work()

    engine.resolve(Composition({"plain": 1, "rslora": 1}, "ties"), execute)
    assert 0 < len(calls) < len(engine.snapshot.layout.spans)

"""Threads that compute at the same moment share the cores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from composer.core.composition import Composition, Sampling
from composer.engine.scheduler import Scheduler
from composer.model.runtime.cores import Cores, cores
from tests.tools import tiny


class Computing:
    """A thread that computes."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1)

    def enter(self, shared: Cores) -> None:
        self._thread.submit(shared.enter, self).result()

    @property
    def threads(self) -> int:
        """How many threads a product of this thread has."""
        return self._thread.submit(torch.get_num_threads).result()


def test_each_has_its_share_and_all_of_them_when_it_is_alone():
    shared, (one, other, third) = Cores(2), (Computing() for _ in range(3))
    one.enter(shared)
    assert one.threads == 2
    other.enter(shared)
    one.enter(shared)
    third.enter(shared)
    assert one.threads == other.threads == third.threads == 1, "at least one"
    shared.leave(other)
    shared.leave(third)
    one.enter(shared)
    assert one.threads == 2 and other.threads == 1


def test_whoever_is_gone_takes_no_share():
    shared, one, gone = Cores(4), Computing(), Computing()
    gone.enter(shared)
    one.enter(shared)
    assert one.threads == 2
    del gone
    one.enter(shared)
    assert one.threads == 4


def test_two_bases_that_write_at_once_have_half_each(monkeypatch):
    """An engine that waits for requests has none, and one that writes alone has all."""
    shared = Cores(2)
    monkeypatch.setattr("composer.engine.scheduler.cores", lambda: shared)
    first, second = (Scheduler(tiny.engine("llama", {})) for _ in range(2))
    try:
        assert first.submit_task(torch.get_num_threads).result(60) == 2
        held = first.submit("Hello", Composition(), Sampling(max_new_tokens=400)).events()
        next(held)
        assert second.submit_task(torch.get_num_threads).result(60) == 1
        held.close()
        assert second.submit_task(torch.get_num_threads).result(60) >= 1
    finally:
        first.close()
        second.close()
    assert not shared._at_work
    assert cores().count >= 1

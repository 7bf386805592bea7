"""Shares a CPU's cores among the engines that compute at the same moment.

A product on two threads waits for the slower one. Where two bases write at once on two cores, each thread
waits for a core that the other base has, and everything takes twice as long as on one thread each.
"""

from __future__ import annotations

from functools import cache
from threading import Lock
from weakref import WeakSet

import torch


class Cores:
    """Who computes now. count: the cores that there are to share."""

    def __init__(self, count: int):
        self.count = count
        self._at_work: WeakSet[object] = WeakSet()
        self._changing = Lock()

    def enter(self, who: object) -> None:
        """Have this thread's products run on its share of the cores, at least one, until the next call."""
        with self._changing:
            self._at_work.add(who)
            share = max(1, self.count // len(self._at_work))
        # Asked first: a thread that was never asked takes what another one set last.
        if torch.get_num_threads() != share:
            torch.set_num_threads(share)

    def leave(self, who: object) -> None:
        """Leave the cores to the others."""
        with self._changing:
            self._at_work.discard(who)


@cache
def cores() -> Cores:
    """The process's, as many as torch uses by itself when they are first asked for."""
    return Cores(torch.get_num_threads())

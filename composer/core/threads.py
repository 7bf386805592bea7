"""Which thread computes: in a process that serves, the scheduler's, and no other that stays.

And how its helpers wait for each other: see `spin_briefly`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")

SPIN = "GOMP_SPINCOUNT"
# Turns of an empty loop, some microseconds: as long as most waits between two kernels of a token are.
SPIN_COUNT = "2500"

_too_late = False


def spin_briefly() -> None:
    """Have OpenMP's threads wait only a moment at a barrier before they sleep; before torch is imported.

    GNU's runtime spins for milliseconds where nothing is set. On a machine that other processes use too, that
    keeps the core from the very thread that is waited for, and a token takes ten times as long. A user's own
    GOMP_SPINCOUNT or OMP_WAIT_POLICY is left as it is. `composer bench --only contention` measures it.
    """
    if "OMP_WAIT_POLICY" not in os.environ and SPIN not in os.environ:
        os.environ[SPIN] = SPIN_COUNT
        global _too_late
        _too_late = "torch" in sys.modules


def spins_for_long() -> bool:
    """Whether OpenMP's threads spin for milliseconds, because torch was imported before this package was."""
    return _too_late


def run_in_short_lived_thread(work: Callable[[], T]) -> T:
    """Do `work` in a thread that ends with it, and return what it returns.

    Every thread that computes keeps a team of OpenMP workers for the rest of its life. Once they are more
    than the cores, GNU's runtime has all workers of the process sleep between two parallel regions instead
    of spinning for a moment (libgomp, GOMP_SPINCOUNT), and a token has hundreds of regions: decoding takes
    twice as long, because some other thread once loaded a file.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as fault:  # raised again where the result is awaited
            future.set_exception(fault)

    # A daemon, and not joined when the wait is interrupted: Ctrl+C must not wait for a base to be loaded.
    thread = Thread(target=run, name="apart", daemon=True)
    thread.start()
    result = future.result()
    thread.join()
    return result

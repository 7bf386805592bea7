"""Which thread computes: in a process that serves, the scheduler's, and no other that stays."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """Do `work` in a thread that ends with it, and return what it returns.

    Every thread that computes keeps a team of OpenMP workers for the rest of its life. Once they are more
    than the cores, GNU's runtime has all workers of the process sleep between two parallel regions instead
    of spinning for a moment (libgomp, GOMP_SPINCOUNT), and a token has hundreds of regions: decoding takes
    twice as long, because some other thread once loaded a file.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="apart") as pool:
        return pool.submit(work).result()

"""Work that runs at once, or between two decoding passes of a server, a little at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")
# Runs a piece of work and returns its result: at once, or between two decoding passes of a server.
Executor = Callable[[Callable[[], Any]], Any]
# Seconds of small pieces between two passes. One piece at a time, behind those of all other visitors, made a
# merge of 210 sites take minutes; more would have the texts wait for longer than a pass takes.
SLICE = 0.1


def run_inline(work: Callable[[], T]) -> T:
    return work()


def in_turn(
    pieces: Iterable[Callable[[], T]], execute: Executor, clock: Callable[[], float] = perf_counter
) -> Iterator[T]:
    """The results of the pieces in order. As many run in one call of `execute` as SLICE seconds take."""
    left = iter(pieces)

    def some() -> list[T]:
        made: list[T] = []
        began = clock()
        for piece in left:
            made.append(piece())
            if clock() - began >= SLICE:
                break
        return made

    while made := execute(some):
        yield from made

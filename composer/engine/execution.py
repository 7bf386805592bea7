"""Work that runs at once, or between two decoding passes of a server, a little at a time."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")
# Runs a piece of work and returns its result: at once, or between two decoding passes of a server.
Executor = Callable[[Callable[[], Any]], Any]
# Seconds of small pieces between two passes: one piece at a time made a merge of 210 sites take minutes, and
# more would have the texts wait for longer than a pass takes. Where others' work is longer, so may this be:
# as long as it waited for its turn, up to MOST_SLICE.
SLICE, MOST_SLICE = 0.1, 2.0


def run_inline(work: Callable[[], T]) -> T:
    return work()


def in_turn(
    pieces: Iterable[Callable[[], T]], execute: Executor, clock: Callable[[], float] = monotonic
) -> Iterator[T]:
    """The results of the pieces in order. As many run in one call of `execute` as a slice takes."""
    left = iter(pieces)

    def some(asked: float) -> list[T]:
        made: list[T] = []
        began = clock()
        slice_seconds = min(max(SLICE, began - asked), MOST_SLICE)
        for piece in left:
            made.append(piece())
            if clock() - began >= slice_seconds:
                break
        return made

    while made := execute(partial(some, clock())):
        yield from made


def place_in_line(began: float, clock: Callable[[], float] = monotonic) -> float:
    """Where the next piece of work that began at a moment stands in a server's line.

    Halfway from there to now: what came in the first half of its time comes first, and what came later waits
    for no longer than this has taken. With a place at the end for every piece, long work would wait for all
    short work each time.
    """
    return (began + clock()) / 2


@dataclass(frozen=True)
class Task:
    """Work, and who waits for it."""

    work: Callable[[], Any]
    # Its place in line, in seconds of the monotonic clock.
    since: float
    future: Future[Any] = field(default_factory=Future)

    def run(self) -> Callable[[], None]:
        """Do the work. Returns what tells its outcome to whoever waits."""
        try:
            return partial(self.future.set_result, self.work())
        except BaseException as fault:  # whoever waits for the future gets it
            return partial(self.future.set_exception, fault)


class TaskLine:
    """Tasks that wait, the one with the earliest place first. Not thread-safe."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, work: Callable[[], T], since: float) -> Future[T]:
        """Queue the work behind all that have this place or an earlier one. Cancelling the future withdraws
        it."""
        task = Task(work, since)
        insort(self._tasks, task, key=lambda each: each.since)
        return task.future

    def start_first(self) -> Task | None:
        """Take the first task out, to be run now. None where it was withdrawn, and where there is none."""
        task = self._tasks.pop(0) if self._tasks else None
        return task if task and task.future.set_running_or_notify_cancel() else None

    def fail_all(self, fault: BaseException) -> None:
        """End all with this fault."""
        tasks, self._tasks = self._tasks, []
        for each in tasks:
            if each.future.set_running_or_notify_cancel():
                each.future.set_exception(fault)

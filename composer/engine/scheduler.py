"""Many people, one model: a thread that decodes everybody's rows in one batch, which they join and leave.

It does whatever else has to be computed too, between two passes: see composer.core.threads.

Continuous batching as in Orca (Yu et al. 2022): a newcomer waits for one pass, not for somebody's last word.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from typing import TypeVar

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.engine.engine import Engine
from composer.engine.session import DecodeSession, check_slots
from composer.model.runtime.batch import BatchRow, Failed

log = logging.getLogger(__name__)

# Prompt tokens read between two passes: more would make those who are being served wait for newcomers.
READ_TOKENS = 512
# How long somebody hears nothing at most, in seconds.
POLL = 0.25
CLOSING = "The server is shutting down; try again when it is back."

T = TypeVar("T")
Job = tuple[Future, Callable[[], object]]


@dataclass(frozen=True)
class QueueUpdate:
    """No step yet. place: in the queue when there is no room for it, 1 is next; 0: it is being worked on."""

    place: int


class RequestHandle:
    """One request's way through the scheduler. Closing it, at any moment, frees its place."""

    def __init__(self, scheduler: Scheduler, row: BatchRow):
        self.row = row
        self.gone = False
        self.outbox: SimpleQueue[Step | Exception] = SimpleQueue()
        self._scheduler = scheduler

    def events(self) -> Iterator[Step | QueueUpdate]:
        """Steps as they come, and a Waiting whenever POLL seconds bring none, so that a listener may leave.

        Raises ComposerError when the row failed. Ends with the step that has a finish.
        """
        try:
            while True:
                try:
                    item = self.outbox.get(timeout=POLL)
                except Empty:
                    yield QueueUpdate(self._scheduler.place(self))
                    continue
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            self.close()

    def close(self) -> None:
        """Leave: the row ends before the next pass."""
        self.gone = True
        self._scheduler.wake()


class Scheduler:
    """Feeds one running batch of an engine from any number of threads.

    slots: how many voices decode together; a row of most methods has one. queue: how many more rows may wait.
    room: longest row in tokens, prompt and continuation. Results are those of Engine.generate, token for
    token, up to rounding.
    """

    def __init__(self, engine: Engine, slots: int = 32, queue: int = 64, room: int = 2048):
        self.engine, self.slots, self.queue = engine, slots, queue
        self.room = min(room, engine.base.context)
        self._waiting: deque[RequestHandle] = deque()
        self._running: set[RequestHandle] = set()
        self._jobs: deque[Job] = deque()
        self._at_a_job = False
        self._changed = Condition()
        self._thread: Thread | None = None
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        with self._changed:
            return not self._jobs and not self._at_a_job and not self.busy

    @property
    def busy(self) -> int:
        """How many requests are running or waiting."""
        with self._changed:
            return sum(not each.gone for each in (*self._running, *self._waiting))

    def generate(
        self,
        prompt: str,
        composition: Composition = Composition(),
        sampling: Sampling = Sampling(),
        *,
        fusion: Fusion | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Step]:
        """As Engine.generate, in everybody's batch; waits for a place without a word."""
        ticket = self.enter(prompt, composition, sampling, fusion)
        events = ticket.events()
        try:
            for event in events:
                if stop():
                    return
                if isinstance(event, Step):
                    yield event
        finally:
            events.close()

    def enter(
        self, prompt: str, composition: Composition, sampling: Sampling, fusion: Fusion | None = None
    ) -> RequestHandle:
        """Ask for a place. Raises ComposerError for what cannot be generated, and when the queue is full.

        Places are given in the order of asking: a row with many voices is not overtaken while it waits.
        """
        self.check_room()
        # What a method makes of adapters is made first, a site at a time, and held until the row holds it.
        held = self.engine.cast(composition, lambda work: self.call(work).result())
        make = partial(self.engine.row, None, prompt, composition, sampling, fusion)
        reads = self.engine.reads_prompt(composition, held, fusion)
        row = self.call(make).result() if reads else make()
        check_slots(row, self.slots)
        if len(row.ids) + row.sampling.max_new_tokens > self.room:
            raise ComposerError(
                f"Prompt and continuation are longer than the {self.room} tokens a place has; "
                "shorten the prompt or ask for fewer new tokens."
            )
        ticket = RequestHandle(self, row)
        row.key = ticket
        with self._changed:
            self.check_room(len(row.mixture))
            self._waiting.append(ticket)
            self._start()
        return ticket

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Have the decoding thread do something: one thing between two passes, so that no text stands still.

        Cancelling the future withdraws it. Raises ComposerError when the scheduler is closed.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise ComposerError(CLOSING)
            self._jobs.append((future, work))
            self._start()
        return future

    def check_room(self, mixture: int = 1) -> None:
        """Raise the ComposerError that entering with so many voices would raise, before any work was done."""
        with self._changed:
            if self._closed:
                raise ComposerError(CLOSING)
            served, waiting, free = self._line()
            if (waiting or mixture > free) and len(waiting) >= self.queue:
                who = "1 is" if len(served) == 1 else f"{len(served)} are"
                raise ComposerError(
                    f"The house is full: {who} being served and {len(waiting)} wait. Try again in a minute."
                )

    def place(self, ticket: RequestHandle) -> int:
        """Where the ticket stands in the queue: 1 is next, 0 is running or over."""
        with self._changed:
            _, waiting, _ = self._line()
            return waiting.index(ticket) + 1 if ticket in waiting else 0

    def _line(self) -> tuple[list[RequestHandle], list[RequestHandle], int]:
        """Who has a place or gets one next, who waits, and the slots that are left; with the lock held."""
        here = [each for each in (*self._running, *self._waiting) if not each.gone]
        free = self.slots
        for count, ticket in enumerate(here):
            if len(ticket.row.mixture) > free:
                return here[:count], here[count:], free
            free -= len(ticket.row.mixture)
        return here, [], free

    def wake(self) -> None:
        """Have the loop look at its tickets again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread; requests under way end with a ComposerError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # --- the decoding thread -------------------------------------------------------------------

    def _loop(self) -> None:
        run = None
        while (joining := self._next()) is not None:
            self._work()
            if not joining and (run is None or not run.keys):
                continue
            run = run or self.engine.start(self.slots, self.room)
            try:
                run.leave([ticket for ticket in run.keys if ticket.gone])
                if joining:
                    self._join(run, joining)
                if run.keys:
                    self._dispatch(run.step())
            except Exception as fault:
                # Only a fault of the model itself comes here; nobody's row can be trusted after it.
                log.exception("the running batch was given up")
                self._fail_all(fault)
                run = None
        self._fail_all(ComposerError(CLOSING))

    def _start(self) -> None:
        """Have the thread look; called with the lock held."""
        if self._thread is None:
            self._thread = Thread(target=self._loop, name="decoding", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        """The oldest job, unless it was withdrawn."""
        with self._changed:
            future, work = self._jobs.popleft() if self._jobs else (None, None)
            self._at_a_job = future is not None and future.set_running_or_notify_cancel()
        if not self._at_a_job:
            return
        try:
            result = work()
        except BaseException as fault:  # whoever waits for the future hears of it
            self._at_a_job = False
            future.set_exception(fault)
        else:
            self._at_a_job = False
            future.set_result(result)

    def _next(self) -> list[RequestHandle] | None:
        """Who joins before the next pass; waits while there is nothing to do; None at the end."""
        with self._changed:
            while True:
                self._running = {each for each in self._running if not each.gone}
                self._waiting = deque(each for each in self._waiting if not each.gone)
                if self._closed:
                    return None
                if self._waiting or self._running or self._jobs:
                    return self._admit()
                self._changed.wait()

    def _admit(self) -> list[RequestHandle]:
        joining: list[RequestHandle] = []
        longest = prompts = 0
        free = self.slots - sum(len(each.row.mixture) for each in self._running)
        while self._waiting and len(self._waiting[0].row.mixture) <= free:
            row = self._waiting[0].row
            longest, prompts = max(longest, len(row.ids)), prompts + len(row.mixture)
            if joining and longest * prompts > READ_TOKENS:
                break
            ticket = self._waiting.popleft()
            free -= len(row.mixture)
            self._running.add(ticket)
            joining.append(ticket)
        return joining

    def _join(self, run: DecodeSession, joining: list[RequestHandle]) -> None:
        try:
            self._dispatch(run.join([ticket.row for ticket in joining]))
        except Exception as fault:
            if len(joining) == 1:
                log.exception("a row could not join")
                self._dispatch([Failed(joining[0], fault)])
                return
            for ticket in joining:
                self._join(run, [ticket])

    def _dispatch(self, outcomes: list[Step | Failed]) -> None:
        for outcome in outcomes:
            ticket: RequestHandle = outcome.row
            if isinstance(outcome, Failed):
                ticket.outbox.put(_sentence(outcome.fault))
            else:
                ticket.outbox.put(outcome)
            if isinstance(outcome, Failed) or outcome.finish is not None:
                with self._changed:
                    self._running.discard(ticket)

    def _fail_all(self, fault: Exception) -> None:
        with self._changed:
            tickets = [*self._running, *(self._waiting if self._closed else ())]
            self._running.clear()
            jobs = list(self._jobs) if self._closed else []
        for ticket in tickets:
            ticket.outbox.put(_sentence(fault))
        for future, _ in jobs:
            if future.set_running_or_notify_cancel():
                future.set_exception(fault)


def _sentence(fault: Exception) -> ComposerError:
    if isinstance(fault, ComposerError):
        return fault
    return ComposerError("This text could not be continued; try again. The log has the details.")

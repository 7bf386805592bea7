"""Serves many requests with one model: a thread decodes all rows in one batch, which they join and leave.

Everything else that computes runs on the same thread, between two passes; see composer.core.threads.

Continuous batching as in Orca (Yu et al. 2022): a new request waits for one pass, not for another text's end.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from time import monotonic
from typing import TypeVar

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.fault_messages import out_of_memory
from composer.core.results import Fusion, Step
from composer.engine.backoff import LONGEST, Backoff
from composer.engine.capacity import Capacity, Room
from composer.engine.engine import AnyComposition, Engine
from composer.engine.execution import Executor, TaskLine, place_in_line
from composer.engine.session import DecodeSession, SessionRow, check_slots
from composer.model.runtime.batch import Failed
from composer.model.runtime.cores import cores

log = logging.getLogger(__name__)

# Prompt tokens read between two passes. More would delay the running texts.
READ_TOKENS = 512
# Longest time between two events of a request, in seconds.
POLL = 0.25
# A request of low priority counts as one that came so many seconds later. Without an end to its wait it would
# never run where somebody always writes.
LATER = 15.0
NO_MEMORY = "The memory is not enough for this text; shorten the prompt, or ask for fewer new tokens."
FAILING = (
    f"The server cannot write texts: it has failed several times in a row. Try again in {2 * LONGEST:.0f} "
    "seconds; if that fails too, tell whoever runs it, whose log says why."
)
CLOSING = "The server is shutting down. Try again when it is back."

# The least that any row needs.
LEAST = Room(1, 0)

T = TypeVar("T")


@dataclass(frozen=True)
class QueueUpdate:
    """No step yet."""

    # In the queue while all slots are busy, 1 is next; 0: the request is running.
    position: int


class RequestHandle:
    """A request in the scheduler. Closing it, at any moment, frees its slots."""

    def __init__(self, scheduler: Scheduler, row: SessionRow, background: bool = False):
        self.row, self.background = row, background
        # Its place in line, in monotonic seconds.
        self.since = monotonic() + (LATER if background else 0.0)
        self.gone = False
        self.outbox: SimpleQueue[Step | Exception] = SimpleQueue()
        self._scheduler = scheduler

    def events(self) -> Generator[Step | QueueUpdate]:
        """Steps as they come, and a QueueUpdate after POLL seconds without one, so that a listener can leave.

        Raises ComposerError when the row failed. Ends with the step that has a finish.
        """
        try:
            while True:
                try:
                    item = self.outbox.get(timeout=POLL)
                except Empty:
                    yield QueueUpdate(self._scheduler.queue_position(self))
                    continue
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            self.close()

    def close(self) -> None:
        """Remove the row before the next pass."""
        self.gone = True
        self._scheduler.wake()


class Scheduler:
    """Feeds one running batch of an engine from any number of threads.

    slots: branches that decode together; a row of most methods has one. queue: requests that may wait.
    max_seq_len: tokens of the longest row, prompt and continuation. kv_tokens: tokens of the running rows
    whose keys and values are held together, or 0 for no limit; a longer row runs alone. pause: waits so many
    seconds between restarts of a decoding thread that fails again and again; None: by the clock, or until it
    is closed.

    Texts equal those of Engine.generate, token for token, up to rounding.
    """

    def __init__(
        self,
        engine: Engine,
        slots: int = 32,
        queue: int = 64,
        max_seq_len: int = 2048,
        pause: Callable[[float], object] | None = None,
        kv_tokens: int = 0,
    ):
        self.engine, self.slots, self.queue = engine, slots, queue
        self.max_seq_len = min(max_seq_len, engine.base.context)
        self._waiting: deque[RequestHandle] = deque()
        self._background: deque[RequestHandle] = deque()
        # By their rows' keys. A row does not refer to its handle: in a cycle, the leases of its merged
        # adapters would wait for the garbage collector.
        self._running: dict[Hashable, RequestHandle] = {}
        self._keys = count()
        self._tasks = TaskLine()
        self._in_task = False
        self._changed = Condition()
        self._thread: Thread | None = None
        self._closed = False
        self._capacity, self._cores = Capacity(slots, tokens=kv_tokens), cores()
        self._backoff, self._pause = Backoff(), pause or self._wait_unless_closed

    @property
    def idle(self) -> bool:
        """Whether no request and no task is running or waiting."""
        with self._changed:
            return not self._tasks and not self._in_task and not self.busy

    @property
    def busy(self) -> int:
        """How many requests are running or waiting."""
        with self._changed:
            every = (*self._running.values(), *self._waiting, *self._background)
            return sum(not each.gone for each in every)

    def generate(
        self,
        prompt: str,
        composition: AnyComposition = Composition(),
        sampling: Sampling = Sampling(),
        *,
        fusion: Fusion | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Step]:
        """As Engine.generate, in the shared batch. Waits for a slot without an event."""
        events = self.submit(prompt, composition, sampling, fusion).events()
        try:
            for event in events:
                if stop():
                    return
                if isinstance(event, Step):
                    yield event
        finally:
            events.close()

    def submit(
        self,
        prompt: str,
        composition: AnyComposition,
        sampling: Sampling,
        fusion: Fusion | None = None,
        written: Sequence[int] = (),
        background: bool = False,
    ) -> RequestHandle:
        """Queue a request. Raises ComposerError for one that cannot be generated, and when the queue is full.

        fusion, written: as for Engine.row. background: it waits, out of the queue, until no other request
        does that came less than LATER seconds after it, and all of these together take at most half of the
        slots.

        Slots are given in the order of requests: a row with many branches is not overtaken while it waits.
        """
        if not background:
            self.check_capacity()
        # Merged adapters are materialized first, some sites at a time between two passes. The row holds them.
        resolved = self.engine.resolve(composition, self.executor())
        make = partial(self.engine.row, next(self._keys), prompt, resolved, sampling, fusion, written)
        # A prefill runs on the decoding thread; without one the row is made here.
        row = self.submit_task(make).result() if resolved.missing_stats(fusion) else make()
        check_slots(row, self.slots)
        if len(row.ids) + row.sampling.max_new_tokens > self.max_seq_len:
            raise ComposerError(
                f"Prompt and continuation are longer than {self.max_seq_len} tokens, the length of a slot; "
                "shorten the prompt or ask for fewer new tokens."
            )
        handle = RequestHandle(self, row, background)
        with self._changed:
            if self._closed:
                raise ComposerError(CLOSING)
            if not background:
                self.check_capacity(Room.of(row))
            (self._background if background else self._waiting).append(handle)
            self._start()
        return handle

    def submit_task(self, work: Callable[[], T], since: float | None = None) -> Future[T]:
        """Run something on the decoding thread: one task between two passes, so that the texts go on.

        since: its place in line, in seconds of the monotonic clock; None: now. What can wait takes the place
        of a later moment, so that it is run some time. Cancelling the future withdraws it. Raises
        ComposerError when the scheduler is closed.
        """
        with self._changed:
            if self._closed:
                raise ComposerError(CLOSING)
            future = self._tasks.add(work, monotonic() if since is None else since)
            self._start()
        return future

    def executor(self, since: float | None = None) -> Executor:
        """Runs each piece of some work as a task, and waits for it.

        since: the place in line of all; None: as place_in_line has it for work that begins now.
        """
        began = monotonic()

        def execute(work: Callable[[], T]) -> T:
            return self.submit_task(work, place_in_line(began) if since is None else since).result()

        return execute

    def check_capacity(self, need: Room = LEAST) -> None:
        """Raise the ComposerError that submitting a row which needs so much would raise."""
        with self._changed:
            if self._closed:
                raise ComposerError(CLOSING)
            served, waiting, free = self._line()
            if (waiting or not free.holds(need)) and len(waiting) >= self.queue:
                raise ComposerError(
                    f"Server busy: {len(served)} running, {len(waiting)} queued. Try again in a minute."
                )

    def queue_position(self, handle: RequestHandle) -> int:
        """The request's position in the queue: 1 is next, 0 is running or over."""
        with self._changed:
            _, waiting, _ = self._line()
            return waiting.index(handle) + 1 if handle in waiting else 0

    def _line(self) -> tuple[list[RequestHandle], list[RequestHandle], Room]:
        """Requests with slots now or after the next pass; those that wait; what is free. Needs the lock."""
        here = [each for each in (*self._running.values(), *self._waiting) if not each.gone]
        free = self._capacity.room
        for index, handle in enumerate(here):
            need = Room.of(handle.row)
            if index and not free.holds(need):
                return here[:index], here[index:], free
            free = free.less(need)
        return here, [], free

    def wake(self) -> None:
        """Have the loop look at its requests again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread. Requests in progress end with a ComposerError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # --- the decoding thread -------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            try:
                self._loop()
            except BaseException as fault:  # a thread that ended would leave everybody waiting
                seconds = self._backoff.fail()
                log.exception("the decoding thread begins anew in %.2f s", seconds)
                if self._backoff.exhausted:
                    self._fail_all(ComposerError(FAILING), everybody=True)
                else:
                    self._fail_all(fault)
                if seconds:
                    self._pause(seconds)
        self._fail_all(ComposerError(CLOSING), everybody=True)

    def _loop(self) -> None:
        session: DecodeSession | None = None
        while (joining := self._next()) is not None:
            self._cores.enter(self)
            self._run_task()
            if not joining and (session is None or not session.keys):
                self._backoff.succeed()
                continue
            try:
                session = session or self.engine.start(self.slots, self.max_seq_len)
                session.remove([key for key in session.keys if key not in self._running])
                if joining:
                    self._join(session, joining)
                if session.keys:
                    self._dispatch(session.step())
            except Exception as fault:
                session = None  # of a fault of the model itself: no row can be trusted after it
                if not (out_of_memory(fault) and self._shrink()):
                    log.exception("the running batch was given up")
                    self._fail_all(fault)
            if session is None:
                self.engine.free_memory()
            self._backoff.succeed()

    def _wait_unless_closed(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=seconds)

    def _shrink(self) -> bool:
        """Have the running rows wait for a batch of half as many. False where there is only one.

        Their tokens so far are read again as a prompt, so their texts go on where they were.
        """
        with self._changed:
            rows = [each for each in self._running.values() if not each.gone]
            if len(rows) < 2:
                return False
            self._capacity.shrink(sum(len(each.row.mixture) for each in rows))
            for handle in reversed(rows):
                handle.row.resume()
                (self._background if handle.background else self._waiting).appendleft(handle)
            self._running.clear()
        log.warning(
            "not enough memory for %d texts at once; %d go on now", len(rows), self._capacity.branches
        )
        return True

    def _start(self) -> None:
        """Have the thread look. Needs the lock."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="decoding", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run_task(self) -> None:
        """Run the first task in line, unless it was withdrawn."""
        with self._changed:
            task = self._tasks.start_first()
            self._in_task = task is not None
        if task is not None:
            tell = task.run()
            self._in_task = False
            tell()

    def _next(self) -> list[RequestHandle] | None:
        """The requests to add before the next pass. Waits while there is nothing to do; None at the end."""
        with self._changed:
            while True:
                self._running = {key: each for key, each in self._running.items() if not each.gone}
                self._waiting = deque(each for each in self._waiting if not each.gone)
                self._background = deque(each for each in self._background if not each.gone)
                if self._closed:
                    self._cores.leave(self)
                    return None
                if self._waiting or self._background or self._running or self._tasks:
                    return self._admit()
                self._cores.leave(self)
                self._changed.wait()

    def _admit(self) -> list[RequestHandle]:
        self._capacity.grow()
        free = self._capacity.room
        for handle in self._running.values():
            free = free.less(Room.of(handle.row))
        overdue = self._waiting and self._background and self._background[0].since < self._waiting[0].since
        if overdue and (joining := self._admit_background(free)):
            return joining
        joining = []
        longest = prompts = 0
        if self._waiting and not self._running:
            free = free.or_more(Room.of(self._waiting[0].row))  # it runs, if alone
        while self._waiting and free.holds(Room.of(self._waiting[0].row)):
            row = self._waiting[0].row
            longest, prompts = max(longest, len(row.ids)), prompts + len(row.mixture)
            if joining and longest * prompts > READ_TOKENS:
                break
            handle = self._waiting.popleft()
            free = free.less(Room.of(row))
            self._running[row.key] = handle
            joining.append(handle)
        if not self._waiting and not joining:
            joining = self._admit_background(free)
        return joining

    def _admit_background(self, free: Room) -> list[RequestHandle]:
        """One request of low priority, as long as all of them leave half of the slots to others."""
        if not self._background:
            return []
        handle, row = self._background[0], self._background[0].row
        taken = sum(len(each.row.mixture) for each in self._running.values() if each.background)
        need = len(row.mixture)
        if not free.holds(Room.of(row)) or (taken and taken + need > self._capacity.branches // 2):
            return []
        self._background.popleft()
        self._running[row.key] = handle
        return [handle]

    def _join(self, session: DecodeSession, joining: list[RequestHandle]) -> None:
        try:
            self._dispatch(session.add([handle.row for handle in joining]))
        except Exception as fault:
            if out_of_memory(fault):
                raise
            if len(joining) == 1:
                log.exception("a row could not join")
                self._dispatch([Failed(joining[0].row.key, fault)])
                return
            for handle in joining:
                self._join(session, [handle])

    def _dispatch(self, outcomes: list[Step | Failed]) -> None:
        for outcome in outcomes:
            handle = self._running[outcome.row]
            handle.outbox.put(_sentence(outcome.fault) if isinstance(outcome, Failed) else outcome)
            if isinstance(outcome, Failed) or outcome.finish is not None:
                with self._changed:
                    del self._running[outcome.row]

    def _fail_all(self, fault: BaseException, everybody: bool = False) -> None:
        """Tell the running rows, and with `everybody` those that wait and the tasks as well."""
        with self._changed:
            waiting = [*self._waiting, *self._background] if everybody else []
            handles = [*self._running.values(), *waiting]
            self._running.clear()
            tasks = TaskLine()
            if everybody:
                tasks, self._tasks = self._tasks, tasks
                self._waiting.clear()
                self._background.clear()
        for handle in handles:
            handle.outbox.put(_sentence(fault))
        tasks.fail_all(fault)


def _sentence(fault: BaseException) -> ComposerError:
    if isinstance(fault, ComposerError):
        return fault
    if out_of_memory(fault):
        return ComposerError(NO_MEMORY)
    return ComposerError("This text could not be continued; try again. The log has the details.")

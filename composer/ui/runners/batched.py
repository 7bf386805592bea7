"""All visitors share one engine in this process: texts in one running batch, fusions between its passes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from time import monotonic
from typing import TypeVar

from composer.analysis.explain import explain
from composer.analysis.explanation import Explanation
from composer.analysis.next_token import NextTokenReader, NextTokens
from composer.analysis.text_reading import TextReading, read_text
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.engine.added_adapters import AddedAdapters
from composer.engine.engine import AnyComposition, Engine
from composer.engine.execution import Executor
from composer.engine.export import export
from composer.engine.resolve import ResolvedComposition, find_method, requires_materialization
from composer.engine.scheduler import POLL, QueueUpdate, RequestHandle, Scheduler
from composer.evaluation.best_of_n import choice_scores
from composer.evaluation.scoring import perplexities
from composer.ui.runners.base import (
    Left,
    LoadingStarted,
    MergeStarted,
    RunEvent,
    Runner,
    Withdrawn,
    check_unmerged,
    never,
)
from composer.ui.runners.budgets import Budgets, metered
from composer.ui.runners.use_count import counted
from composer.ui.settings import Settings
from composer.ui.validation import Request

T = TypeVar("T")

# Longest wait for next words that are being read: a fraction of a second, more on a busy machine.
PREVIEW_SECONDS = 3
# They count as asked for so many seconds later: what a first word waits for comes before them.
SOON = 1.0
# And so does what is read of texts that are there already.
AFTERWARDS = 30.0

log = logging.getLogger(__name__)


class BatchedRunner(Runner):
    """Feeds a scheduler. Any number of threads may run generations."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        added: AddedAdapters | None = None,
        budgets: Budgets | None = None,
    ):
        super().__init__(engine, added, budgets)
        longest = engine.base.prompt_limit + settings.max_new_tokens
        self.scheduler = Scheduler(
            engine, settings.slots, settings.queue_size, longest, kv_tokens=settings.kv_tokens
        )
        self._read_next = NextTokenReader(engine)
        self._preview: Future | None = None  # the newest one, whoever's it is

    @counted
    @metered
    def run(self, request: Request, names: Sequence[str], read: bool = True) -> Iterator[RunEvent]:
        """See Runner. The fusion comes first where the method needs it or no other request is running."""
        prompt, composition, tokens = request.prompt, request.composition, list(request.written)
        self.engine.base.encode(prompt)
        self.scheduler.check_capacity()
        yield from self.loading(request.added)
        # Held until the row holds it, so that its adapters stay in the bank.
        resolved = yield from self._resolved(composition, names)
        fusion = None
        if find_method(composition).needs_kl or self._idle():
            for fusion in self._read(prompt, resolved, names):
                yield fusion
        handle = self.scheduler.submit(prompt, resolved, request.sampling, fusion, request.written)
        try:
            for event in _follow(handle):
                if isinstance(event, Step):
                    tokens.append(event.token)
                yield event
        finally:
            handle.close()
        if fusion is None:
            # The text is there: whatever others still wait for comes first.
            yield from self._read(prompt, resolved, names, monotonic() + AFTERWARDS)
        if read:
            yield from self._read_text(prompt, tokens, resolved)

    @counted
    def fuse(self, prompt: str, names: Sequence[str], norm: bool, tokens: str) -> Fusion:
        """See Runner."""
        return self.scheduler.submit_task(partial(self.engine.fusion, prompt, names, norm, tokens)).result()

    @counted
    @metered
    def run_many(
        self, requests: Sequence[Request], names: Sequence[str], background: bool = False
    ) -> Iterator[tuple[int, Step | Exception | None]]:
        """See Runner. They are rows of everybody's batch, a few at a time."""
        news: SimpleQueue[tuple[int, Step | Exception | None]] = SimpleQueue()
        self.added.use({own.name: own.adapter for each in requests for own in each.added}.values())
        left, handles = Event(), list[RequestHandle]()
        pool = ThreadPoolExecutor(self.places(requests), thread_name_prefix="comparing")
        try:
            given = {"names": names, "news": news, "handles": handles, "left": left}
            work = partial(self._follow_one, background=background, **given)
            running = [pool.submit(work, index, request) for index, request in enumerate(requests)]
            while not (all(each.done() for each in running) and news.empty()):
                try:
                    yield news.get(timeout=POLL)
                except Empty:
                    yield -1, None
        finally:
            left.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for handle in list(handles):
                handle.close()

    def _follow_one(
        self,
        index: int,
        request: Request,
        names: Sequence[str],
        news: SimpleQueue,
        handles: list[RequestHandle],
        left: Event,
        background: bool,
    ) -> None:
        """Post a request's steps, or what ended it."""

        try:
            execute = self._executor(left, "Merge cancelled.")
            resolved = self.engine.resolve(request.composition, execute, names)
            handle = self.scheduler.submit(request.prompt, resolved, request.sampling, background=background)
            handles.append(handle)
            with closing(_follow(handle)) as events:
                for event in events:
                    if left.is_set():
                        return
                    if isinstance(event, Step):
                        news.put((index, event))
        except Exception as fault:  # whoever compares is told, and the other columns go on
            news.put((index, fault))

    @counted
    def next_tokens(self, request: Request, names: Sequence[str], left: Left = never) -> NextTokens:
        """See Runner. It is computed between two passes of the running texts."""
        check_unmerged(request.composition)
        for _ in self.loading(request.added):
            pass
        resolved = self.engine.resolve(request.composition, among=names)
        # Another visitor's call may put its own in the attribute before this one is read.
        future = self._preview = self.scheduler.submit_task(
            partial(self._read_next, request.prompt, resolved, written=request.written),
            monotonic() + SOON,
        )
        while not wait([future], POLL / 5).done:
            if left() and future.cancel():
                raise Withdrawn
        return future.result()

    @counted
    @metered
    def explain(
        self, request: Request, names: Sequence[str]
    ) -> Iterator[str | MergeStarted | LoadingStarted | Explanation | None]:
        """See Runner. A text is written as a row of everybody's batch, and read a pass at a time."""
        prompt, composition, tokens = request.prompt, request.composition, list(request.written)
        yield from self.loading(request.added)
        resolved = yield from self._resolved(composition, names)
        if not tokens:
            yield "Writing a text"
            with closing(_follow(self.scheduler.submit(prompt, resolved, request.sampling))) as events:
                for event in events:
                    if isinstance(event, Step):
                        tokens.append(event.token)
                    yield None
        told, left = SimpleQueue[str](), Event()
        with ThreadPoolExecutor(1, thread_name_prefix="explaining") as pool:
            execute = self._executor(left, "The visitor has left.")
            work = partial(explain, text=tokens, execute=execute, tell=told.put, weights=False)
            future = pool.submit(work, self.engine, prompt, resolved)
            try:
                while not (wait([future], POLL).done and told.empty()):
                    yield None if told.empty() else told.get()
                yield future.result()
            finally:
                left.set()

    @counted
    def export(self, request: Request, names: Sequence[str], folder: Path, rank: int | None) -> float:
        """See Runner. A few sites at a time between two passes."""
        for _ in self.loading(request.added):
            pass
        execute = self._executor(Event(), "Cancelled.")
        resolved = self.engine.resolve(request.composition, execute, names)
        sources = self.sources(request)
        return export(self.engine, resolved, folder, request.prompt, rank, sources, execute).kept

    @counted
    def perplexities(self, texts: Sequence[tuple[str, str]]) -> list[float | None]:
        """See Runner. One text between two passes; words that others wait for come first."""
        since = monotonic() + AFTERWARDS
        return [
            score
            for text in texts
            for score in self.scheduler.submit_task(
                partial(perplexities, self.engine, [text]), since
            ).result()
        ]

    @counted
    def choice_scores(self, request: Request, continuations: Sequence[str]) -> list[float]:
        """See Runner. One text between two passes, as `perplexities`."""
        since = monotonic() + AFTERWARDS
        found = []
        for text in continuations:
            for _ in self.loading(request.added):
                pass
            work = partial(choice_scores, self.engine, request.composition, request.prompt, [text])
            found += self.scheduler.submit_task(work, since).result().tolist()
        return found

    def _idle(self) -> bool:
        """Whether no text and no other work is running. Next words are let through first."""
        if self._preview is not None:
            wait([self._preview], PREVIEW_SECONDS)
        return self.scheduler.idle

    def close(self) -> None:
        """End the scheduler's thread. Generations in progress end with a ComposerError."""
        self.scheduler.close()

    def _executor(self, left: Event, cancelled: str, since: float | None = None) -> Executor:
        """Runs work between two passes. Once `left` is set, a ComposerError says `cancelled`.

        since: its place in line, see Scheduler.submit_task; None: that of work that begins now.
        """
        run = self.scheduler.executor(since)

        def execute(work: Callable[[], T]) -> T:
            if left.is_set():
                raise ComposerError(cancelled)
            return run(work)

        return execute

    def _resolved(
        self, composition: Composition, names: Sequence[str]
    ) -> Generator[MergeStarted | None, None, ResolvedComposition]:
        """The composition, between two passes if adapters must be merged or calibrated first."""
        if requires_materialization(composition):
            return (yield from self._materialized(composition, names))
        return self.engine.resolve(composition, among=names)

    def _materialized(
        self, composition: Composition, names: Sequence[str]
    ) -> Generator[MergeStarted | None, None, ResolvedComposition]:
        """Merges or calibrates adapters, piece by piece between two passes."""
        left = Event()

        with ThreadPoolExecutor(1, thread_name_prefix="merging") as pool:
            execute = self._executor(left, "Merge cancelled.")
            future = pool.submit(self.engine.resolve, composition, execute, names)
            try:
                if not wait([future], POLL).done:
                    yield MergeStarted()
                return (yield from _polled(future))
            finally:
                left.set()

    def _read(
        self,
        prompt: str,
        composition: AnyComposition,
        names: Sequence[str],
        since: float | None = None,
    ) -> Iterator[Fusion | None]:
        """The prompt's fusion, after a None for every POLL seconds in which other work comes first."""
        future = self.scheduler.submit_task(
            partial(self.engine.fusion, prompt, names, composition=composition), since
        )
        try:
            yield (yield from _polled(future))
        finally:
            future.cancel()

    def _read_text(
        self, prompt: str, tokens: Sequence[int], composition: AnyComposition
    ) -> Iterator[TextReading | None]:
        """The finished text read once more, a way at a time between two passes."""

        left = Event()
        with ThreadPoolExecutor(1, thread_name_prefix="reading") as pool:
            execute = self._executor(left, "The visitor has left.", monotonic() + AFTERWARDS)
            future = pool.submit(read_text, self.engine, prompt, tokens, composition, execute)
            try:
                yield (yield from _polled(future))
            except ComposerError as fault:
                log.info("not read once more: %s", fault)  # the text itself is whole
            finally:
                left.set()


def _polled(future: Future[T]) -> Generator[None, None, T]:
    """The future's result, after a None for every POLL seconds until it is there."""
    while not wait([future], POLL).done:
        yield None
    return future.result()


def _follow(handle: RequestHandle) -> Generator[Step | QueueUpdate | None]:
    position = 0
    for event in handle.events():
        if isinstance(event, Step):
            yield event
        else:
            yield event if event.position != position else None
            position = event.position

"""All visitors share one engine in this process: texts in one running batch, fusions between its passes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TypeVar

from composer.analysis.next_token import NextTokenReader, NextTokens
from composer.core.catalog_types import FitReport
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.core.threads import run_in_short_lived_thread
from composer.engine.engine import AnyComposition, Engine
from composer.engine.resolve import ResolvedComposition, find_method, requires_materialization
from composer.engine.scheduler import POLL, QueueUpdate, RequestHandle, Scheduler
from composer.ui.runners.base import MergeStarted, RunEvent, Runner, check_unmerged
from composer.ui.settings import Settings
from composer.ui.validation import Request

T = TypeVar("T")

# Longest wait for next words that are being read: a fraction of a second, more on a busy machine.
PREVIEW_SECONDS = 3


class BatchedRunner(Runner):
    """Feeds a scheduler. Any number of threads may run generations."""

    def __init__(self, engine: Engine, settings: Settings):
        super().__init__(engine)
        longest = engine.base.prompt_limit + settings.max_new_tokens
        self.scheduler = Scheduler(engine, settings.slots, settings.queue_size, longest)
        self._read_next = NextTokenReader(engine)
        self._preview: Future | None = None  # the newest one, whoever's it is

    def run(self, request: Request, names: Sequence[str]) -> Iterator[RunEvent]:
        """See Runner. The fusion comes first where the method needs it or no other request is running."""
        prompt, composition = request.prompt, request.composition
        self.engine.base.encode(prompt)
        self.scheduler.check_capacity()
        # Held until the row holds it, so that merged adapters stay in the bank.
        resolved: AnyComposition = composition
        if requires_materialization(composition):
            resolved = yield from self._materialized(composition)
        fusion = None
        if find_method(composition).needs_kl or self._idle():
            for fusion in self._read(prompt, resolved, names):
                yield fusion
        handle = self.scheduler.submit(prompt, resolved, request.sampling, fusion)
        del resolved
        try:
            yield from _follow(handle, names)
        finally:
            handle.close()
        if fusion is None:
            yield from self._read(prompt, composition, names)

    def fuse(self, prompt: str, names: Sequence[str], norm: bool, tokens: str) -> Fusion:
        """See Runner."""
        return self.scheduler.submit_task(partial(self.engine.fusion, prompt, names, norm, tokens)).result()

    def next_tokens(self, prompt: str, composition: Composition) -> NextTokens:
        """See Runner. It is computed between two passes of the running texts."""
        check_unmerged(composition)
        # Another visitor's call may put its own in the attribute before this one is read.
        future = self._preview = self.scheduler.submit_task(partial(self._read_next, prompt, composition))
        return future.result()

    def add(self, source: str) -> FitReport:
        """See Runner."""
        return run_in_short_lived_thread(partial(super().add, source))

    def _idle(self) -> bool:
        """Whether no text and no other work is running. Next words are let through first."""
        if self._preview is not None:
            wait([self._preview], PREVIEW_SECONDS)
        return self.scheduler.idle

    def close(self) -> None:
        """End the scheduler's thread. Generations in progress end with a ComposerError."""
        self.scheduler.close()

    def _materialized(
        self, composition: Composition
    ) -> Generator[MergeStarted | None, None, ResolvedComposition]:
        """Merges or calibrates adapters, piece by piece between two passes."""
        left = Event()

        def execute(work: Callable[[], T]) -> T:
            if left.is_set():
                raise ComposerError("Merge cancelled.")
            return self.scheduler.submit_task(work).result()

        with ThreadPoolExecutor(1, thread_name_prefix="merging") as pool:
            future = pool.submit(self.engine.resolve, composition, execute)
            try:
                if not wait([future], POLL).done:
                    yield MergeStarted()
                while not wait([future], POLL).done:
                    yield None
                return future.result()
            finally:
                left.set()

    def _read(
        self, prompt: str, composition: AnyComposition, names: Sequence[str]
    ) -> Iterator[Fusion | None]:
        """The prompt's fusion, after a None for every POLL seconds in which other work comes first."""
        future = self.scheduler.submit_task(
            partial(self.engine.fusion, prompt, names, composition=composition)
        )
        try:
            while not wait([future], POLL).done:
                yield None
            yield future.result()
        finally:
            future.cancel()


def _follow(handle: RequestHandle, names: Sequence[str]) -> Iterator[Step | QueueUpdate | None]:
    position, lanes = 0, handle.row.resolved.lane_indices(names)
    for event in handle.events():
        if isinstance(event, Step):
            # Adapters that were added after the visitor's request are left out.
            yield replace(event, contribution=event.contribution[:, lanes])
        else:
            yield event if event.position != position else None
            position = event.position

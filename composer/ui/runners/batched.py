"""Many visitors, one engine in this process: texts in one running batch, fusions between its passes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TypeVar

from composer.core.catalog_types import FitReport
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.core.threads import run_in_short_lived_thread
from composer.engine.casting import ResolvedComposition
from composer.engine.engine import Engine
from composer.engine.scheduler import POLL, QueueUpdate, RequestHandle, Scheduler
from composer.methods import METHODS
from composer.ui.runners.base import MergeStarted, RunEvent, Runner
from composer.ui.settings import Settings
from composer.ui.validation import Request

T = TypeVar("T")


class BatchedRunner(Runner):
    """Feeds a scheduler; any number of threads may run generations."""

    def __init__(self, engine: Engine, settings: Settings):
        super().__init__(engine)
        room = engine.prompt_limit + settings.max_new_tokens
        self._scheduler = Scheduler(engine, settings.slots, settings.queue_size, room)

    def run(self, request: Request, names: Sequence[str]) -> Iterator[RunEvent]:
        """See Runner. The fusion weights come first where the method needs them or nobody else is here."""
        prompt, composition = request.prompt, request.composition
        self.engine.check_prompt(prompt)
        self._scheduler.check_room()
        # Held until the row holds it, so that what was made stays made.
        held = (yield from self._made(composition)) if self.engine.makes(composition) else None
        alone = self._scheduler.idle
        fusion = None
        if METHODS[composition.method].needs_kl or alone:
            for fusion in self._read(prompt, composition, names, held):
                yield fusion
        ticket = self._scheduler.enter(prompt, composition, request.sampling, fusion)
        del held
        try:
            yield from _follow(ticket, names)
        finally:
            ticket.close()
        if fusion is None:
            yield from self._read(prompt, composition, names)

    def fuse(self, prompt: str, names: Sequence[str], norm: bool, tokens: str) -> Fusion:
        """See Runner."""
        return self._scheduler.call(partial(self.engine.fusion, prompt, names, norm, tokens)).result()

    def add(self, source: str) -> FitReport:
        """See Runner."""
        return run_in_short_lived_thread(partial(super().add, source))

    def close(self) -> None:
        """End the scheduler's thread; generations under way end with a ComposerError."""
        self._scheduler.close()

    def _made(self, composition: Composition) -> Generator[MergeStarted | None, None, ResolvedComposition]:
        """What the method makes of adapters, piece by piece between other people's tokens."""
        left = Event()

        def through(work: Callable[[], T]) -> T:
            if left.is_set():
                raise ComposerError("Nobody waits for these adapters any more.")
            return self._scheduler.call(work).result()

        with ThreadPoolExecutor(1, thread_name_prefix="making") as pool:
            future = pool.submit(self.engine.cast, composition, through)
            try:
                if not wait([future], POLL).done:
                    yield MergeStarted()
                while not wait([future], POLL).done:
                    yield None
                return future.result()
            finally:
                left.set()

    def _read(
        self,
        prompt: str,
        composition: Composition,
        names: Sequence[str],
        held: ResolvedComposition | None = None,
    ) -> Iterator[Fusion | None]:
        """The prompt's fusion weights, after some Nones while there is other work to do."""
        future = self._scheduler.call(partial(self.engine.fusion_of, prompt, composition, names, held))
        try:
            while not wait([future], POLL).done:
                yield None
            yield future.result()
        finally:
            future.cancel()


def _follow(ticket: RequestHandle, names: Sequence[str]) -> Iterator[Step | QueueUpdate | None]:
    place, columns = 0, ticket.row.cast.places(names)
    for event in ticket.events():
        if isinstance(event, Step):
            # An adapter that came in since the visitor asked has no part in this.
            yield replace(event, contribution=event.contribution[:, columns])
        else:
            yield event if event.place != place else None
            place = event.place

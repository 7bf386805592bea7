"""Where the page meets the engine: one generator that touches the model, and bursts of its steps.

On ZeroGPU the generator runs in a forked process: everything that crosses is plain Python or
numpy, adapters that were added after the fork are named so that the worker can load them itself,
and a fault crosses as gr.Error, the only exception whose text survives the way back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields

import gradio as gr

from composer.engine import Engine
from composer.spec import ComposerError, Composition, FitReport, Fusion, Sampling, Step
from composer.ui.forms import Request

Added = Sequence[tuple[str, str, str | None]]  # (adapter name, repo or folder, commit)


class Runner:
    """The engine behind the page: generate, fuse, and the adapters added while it runs."""

    def __init__(self, engine: Engine, on_gpu: Callable[[Callable], Callable] = lambda function: function):
        self.engine = engine
        self.catalog_names = tuple(engine.names)
        self._added: Added = ()
        self._work = on_gpu(self._work_here)

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the adapters that visitors added, in order."""
        return tuple(name for name, _, _ in self._added)

    def add(self, source: str) -> FitReport:
        """Load one more adapter for everybody, if it fits; returns its fit report."""
        report = self.engine.add_adapter(source)
        if report.ok:
            self._added = (*self._added, (report.name, source, report.revision))
        return report

    def run(self, request: Request) -> Iterator[Fusion | Step]:
        """The prompt's fusion weights, then the steps. Closing the iterator stops the engine.

        Raises gr.Error with the sentence of any ComposerError.
        """
        composition = {f.name: getattr(request.composition, f.name) for f in fields(request.composition)}
        composition["weights"] = dict(request.composition.weights)  # a mapping proxy does not pickle
        yield from self._work(request.prompt, composition, asdict(request.sampling), self._added)

    def fuse(self, prompt: str, names: Sequence[str] | None, norm: bool) -> Fusion:
        """Fusion weights of the prompt alone. Raises gr.Error with the sentence of any ComposerError."""
        work = self._work(prompt, None, {"names": names, "norm": norm}, self._added)
        try:
            return next(work)
        finally:
            work.close()

    def _work_here(
        self, prompt: str, composition: Mapping | None, options: Mapping, added: Added
    ) -> Iterator[Fusion | Step]:
        try:
            for name, source, commit in added:
                if name not in self.engine.names:
                    self.engine.add_adapter(source, commit, name)
            if composition is None:
                yield self.engine.fusion(prompt, **options)
                return
            wanted = Composition(**composition)
            self.engine.check_prompt(prompt)
            fusion = self.engine.fusion(prompt, norm=wanted.norm)
            yield fusion
            yield from self.engine.generate(prompt, wanted, Sampling(**options), fusion=fusion)
        except ComposerError as fault:
            raise gr.Error(str(fault), print_exception=False) from None


def bursts(
    items: Iterator, per_second: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[list[Step]]:
    """Steps in groups, the first at once and then at most `per_second` groups, the last ones at the end."""
    waiting: list[Step] = []
    due = clock()
    for item in items:
        waiting.append(item)
        now = clock()
        if now >= due:
            yield waiting
            waiting, due = [], now + 1 / per_second
    if waiting:
        yield waiting

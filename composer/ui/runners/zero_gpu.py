"""ZeroGPU: every call runs in a forked worker, in which no thread of this process exists.

Only plain Python and numpy values cross. Adapters added after the fork are sent by name, so that the worker
loads them itself. An error crosses as gr.Error, the only exception whose text survives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace

import gradio as gr

from composer.analysis.next_token import NextTokenReader, NextTokens
from composer.core.composition import Composition, Sampling
from composer.core.results import Fusion, Step
from composer.engine.engine import Engine
from composer.ui.error_messages import error_message
from composer.ui.runners.base import Added, Runner, check_unmerged
from composer.ui.validation import Request

NEXT_TOKENS = "next tokens"


class ZeroGpuRunner(Runner):
    """One generation at a time, each in a worker. on_gpu: wraps the one generator that touches the model."""

    limit = 1

    def __init__(self, engine: Engine, on_gpu: Callable[[Callable], Callable]):
        super().__init__(engine)
        self._work = on_gpu(self._work_here)

    def run(self, request: Request, names: Sequence[str]) -> Iterator[Fusion | Step]:
        """See Runner. The fusion weights come first."""
        # As plain values: a mapping proxy does not pickle.
        composition = request.composition.as_dict()
        yield from self._work(
            request.prompt, tuple(names), composition, asdict(request.sampling), self._added
        )

    def fuse(self, prompt: str, names: Sequence[str], norm: bool, tokens: str) -> Fusion:
        """See Runner."""
        asked = {"method": "kl", "norm": norm, "tokens": tokens}
        work = self._work(prompt, tuple(names), asked, None, self._added)
        try:
            return next(work)
        finally:
            work.close()

    def next_tokens(self, prompt: str, composition: Composition) -> NextTokens:
        """See Runner."""
        check_unmerged(composition)
        work = self._work(prompt, (), composition.as_dict(), NEXT_TOKENS, self._added)
        try:
            return next(work)
        finally:
            work.close()

    def close(self) -> None:
        """Nothing of this runner's stays behind."""

    def _work_here(
        self,
        prompt: str,
        names: Sequence[str],
        composition: Mapping,
        sampling: Mapping | str | None,
        added: Added,
    ) -> Iterator[Fusion | Step | NextTokens]:
        """sampling: None for the fusion weights alone, NEXT_TOKENS for the next tokens alone."""
        try:
            for name, source, commit in added:
                if name not in self.engine.names:
                    self.engine.add_adapter(source, commit, name)
            wanted = Composition(**composition)
            if sampling == NEXT_TOKENS:
                yield NextTokenReader(self.engine)(prompt, wanted)
                return
            fusion = self.engine.fusion(prompt, names, composition=wanted)
            yield fusion
            if sampling is not None:
                steps = self.engine.generate(prompt, wanted, Sampling(**sampling), fusion=fusion)
                with closing(steps):
                    yield from (self._known(step, names) for step in steps)
        except Exception as fault:
            raise gr.Error(error_message(fault), print_exception=False) from None

    def _known(self, step: Step, names: Sequence[str]) -> Step:
        """The step with the contributions of these adapters and of the merged adapter after them."""
        here = self.engine.names
        if tuple(names) == tuple(here):
            return step
        places = [here.index(name) for name in names]
        return replace(
            step, contribution=step.contribution[:, [*places, *range(len(here), step.contribution.shape[1])]]
        )

"""ZeroGPU: every call runs in a forked worker, in which no thread of this process exists.

Only plain Python and numpy values cross. Adapters added after the fork are sent by name, so that the worker
loads them itself. An error crosses as gr.Error, the only exception whose text survives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gradio as gr

from composer.adapters.recipe import Source
from composer.analysis.explain import explain
from composer.analysis.explanation import Explanation
from composer.analysis.next_token import NextTokenReader, NextTokens
from composer.analysis.text_reading import TextReading, read_text
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.engine.added_adapters import AddedAdapter, AddedAdapters
from composer.engine.engine import Engine
from composer.engine.export import export
from composer.evaluation.best_of_n import choice_scores
from composer.evaluation.scoring import perplexities
from composer.ui.error_messages import error_message
from composer.ui.runners.base import Left, Runner, check_unmerged, never
from composer.ui.runners.budgets import Budgets, metered
from composer.ui.validation import Request


class ZeroGpuRunner(Runner):
    """One call at a time, each in a worker. on_gpu: wraps the one generator that touches the model."""

    limit = 1

    def __init__(
        self,
        engine: Engine,
        on_gpu: Callable[[Callable], Callable],
        added: AddedAdapters | None = None,
        budgets: Budgets | None = None,
    ):
        super().__init__(engine, added, budgets)
        self._work = on_gpu(self._work_here)

    @metered
    def run(
        self, request: Request, names: Sequence[str], read: bool = True
    ) -> Iterator[Fusion | Step | TextReading]:
        """See Runner. The fusion weights come first."""
        given = {**_plain(request), "names": tuple(names), "read": read}
        yield from self._work("run", given, _adapters([request]))

    @metered
    def run_many(
        self, requests: Sequence[Request], names: Sequence[str], background: bool = False
    ) -> Iterator[tuple[int, Step | Exception | None]]:
        """See Runner. All rows decode in one batch of the worker."""
        given = {"requests": [_plain(each) for each in requests], "names": tuple(names)}
        yield from self._work("run_many", given, _adapters(requests))

    def fuse(self, prompt: str, names: Sequence[str], norm: bool, tokens: str) -> Fusion:
        """See Runner."""
        asked = {"method": "kl", "norm": norm, "tokens": tokens}
        return self._first("fuse", {"prompt": prompt, "names": tuple(names), "composition": asked})

    def next_tokens(self, request: Request, names: Sequence[str], left: Left = never) -> NextTokens:
        """See Runner."""
        check_unmerged(request.composition)
        given = _plain(request) | {"names": tuple(names)}
        return self._first("next_tokens", given, _adapters([request]))

    @metered
    def explain(self, request: Request, names: Sequence[str]) -> Iterator[str | Explanation]:
        """See Runner."""
        given = _plain(request) | {"names": tuple(names)}
        for item in self._work("explain", given, _adapters([request])):
            # A composition does not cross, since a mapping proxy does not pickle.
            yield item if isinstance(item, str) else replace(item, composition=request.composition)

    def export(self, request: Request, names: Sequence[str], folder: Path, rank: int | None) -> float:
        """See Runner. The worker writes to this process's disk."""
        given = _plain(request) | {"names": tuple(names), "folder": str(folder), "rank": rank}
        given["sources"] = self.sources(request)
        return self._first("export", given, _adapters([request]))

    def perplexities(self, texts: Sequence[tuple[str, str]]) -> list[float | None]:
        """See Runner."""
        return self._first("perplexities", {"texts": list(texts)})

    def choice_scores(self, request: Request, continuations: Sequence[str]) -> list[float]:
        """See Runner."""
        given = {"prompt": request.prompt, "composition": request.composition.as_dict()}
        return self._first(
            "choice_scores", given | {"continuations": list(continuations)}, _adapters([request])
        )

    def close(self) -> None:
        """Nothing of this runner's stays behind."""

    def _first(self, kind: str, given: Mapping[str, object], added: tuple[AddedAdapter, ...] = ()) -> Any:
        work = self._work(kind, given, added)
        try:
            return next(work)
        finally:
            work.close()

    # --- in the worker -------------------------------------------------------------------------

    def _work_here(
        self, kind: str, given: Mapping[str, Any], added: tuple[AddedAdapter, ...]
    ) -> Iterator[Any]:
        """kind: the method that it works for. added: the visitor's adapters that it needs."""
        try:
            self.added.use(added)
            yield from getattr(self, f"_{kind}_here")(**given)
        except Exception as fault:
            raise gr.Error(error_message(fault), print_exception=False) from None

    def _run_here(
        self, prompt: str, composition: Mapping, sampling: Mapping, written: Sequence[int], names, read: bool
    ) -> Iterator[Fusion | Step | TextReading]:
        wanted, tokens = self.engine.resolve(Composition(**composition), among=names), list(written)
        fusion = self.engine.fusion(prompt, names, composition=wanted)
        yield fusion
        steps = self.engine.generate(prompt, wanted, Sampling(**sampling), fusion=fusion, written=written)
        with closing(steps):
            for step in steps:
                tokens.append(step.token)
                yield step
        if read:
            # The text is whole, whether or not it can be read once more.
            with suppress(ComposerError):
                yield read_text(self.engine, prompt, tokens, wanted)

    def _run_many_here(self, requests: Sequence[Mapping], names: Sequence[str]) -> Iterator[tuple[int, Step]]:
        asked = [
            (
                each["prompt"],
                self.engine.resolve(Composition(**each["composition"]), among=names),
                Sampling(**each["sampling"]),
            )
            for each in requests
        ]
        steps = self.engine.generate_rows(asked)
        with closing(steps):
            for step in steps:
                yield int(step.row), step

    def _fuse_here(self, prompt: str, names: Sequence[str], composition: Mapping) -> Iterator[Fusion]:
        yield self.engine.fusion(prompt, names, composition=Composition(**composition))

    def _next_tokens_here(
        self, prompt: str, composition: Mapping, sampling: Mapping, written: Sequence[int], names
    ) -> Iterator[NextTokens]:
        resolved = self.engine.resolve(Composition(**composition), among=names)
        yield NextTokenReader(self.engine)(prompt, resolved, written=written)

    def _explain_here(
        self, prompt: str, composition: Mapping, sampling: Mapping, written: Sequence[int], names
    ) -> Iterator[str | Explanation]:
        yield "Reading the text under the base, each adapter alone and the mix"
        resolved = self.engine.resolve(Composition(**composition), among=names)
        found = explain(
            self.engine, prompt, resolved, Sampling(**sampling), tuple(written) or None, weights=False
        )
        yield replace(found, composition=None)

    def _export_here(
        self,
        prompt: str,
        composition: Mapping,
        sampling: Mapping,
        written: Sequence[int],
        names: Sequence[str],
        folder: str,
        rank: int | None,
        sources: Mapping[str, Source],
    ) -> Iterator[float]:
        resolved = self.engine.resolve(Composition(**composition), among=names)
        yield export(self.engine, resolved, Path(folder), prompt, rank, sources).kept

    def _choice_scores_here(
        self, prompt: str, composition: Mapping, continuations: Sequence[str]
    ) -> Iterator[list[float]]:
        yield choice_scores(self.engine, Composition(**composition), prompt, continuations).tolist()

    def _perplexities_here(self, texts: Sequence[tuple[str, str]]) -> Iterator[list[float | None]]:
        yield perplexities(self.engine, texts)


def _adapters(requests: Sequence[Request]) -> tuple[AddedAdapter, ...]:
    """The visitors' adapters that these requests use."""
    return tuple({own.name: own.adapter for each in requests for own in each.added}.values())


def _plain(request: Request) -> dict[str, object]:
    """The request as plain values: a mapping proxy does not pickle."""
    return {
        "prompt": request.prompt,
        "composition": request.composition.as_dict(),
        "sampling": asdict(request.sampling),
        "written": request.written,
    }

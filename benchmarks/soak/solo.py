"""The same request alone: a fresh engine in this process, one text at a time, the same seed."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.soak.plan import World
from benchmarks.soak.records import Asked
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.engine.engine import Engine
from composer.engine.resolve import ResolvedComposition, lane_names
from composer.model.runtime.sampling import BatchSampler, RowSampler, sample_next_tokens

# Logits of one text differ between two batches by float32's rounding, and by 4-bit products' larger one.
ROUNDING = {"none": 3e-4, "nf4": 2e-2, "int8": 2e-2}
# Times that a draw is repeated on logits that are moved by at most that.
DRAWS = 64
# Ties that one text may have, and tokens before a character is seen to differ.
MOST_TIES, HIDDEN = 3, 3


@dataclass(frozen=True)
class Replay:
    """What a text alone was. steps: up to where the answer ended, or differs."""

    agrees: bool
    steps: tuple[Step, ...]
    # Draws that rounding decided.
    ties: int = 0


class Solo:
    """Fresh engines of a world's bases, one at a time in memory."""

    def __init__(self, world: World, compile_step: bool):
        self._world, self._compile = world, compile_step
        self._engine: Engine | None = None

    def engine(self, base: str) -> Engine:
        """The engine of a base, loaded anew where another one was asked for before."""
        if self._engine is None or self._engine.base.spec.name != base:
            self._engine = None
            gc.collect()
            file = self._world.catalog_file
            self._engine = Engine.from_catalog(file, base, compile_step=self._compile)
            if self._compile:
                self._engine.warm_up().wait(600)
        return self._engine

    @contextmanager
    def resolved(self, asked: Asked) -> Iterator[tuple[Engine, ResolvedComposition, tuple[str, ...]]]:
        """The engine, the composition, and the names of its lanes, with the visitor's adapters added."""
        engine = self.engine(asked.base)
        names = (*self._world.names(asked.base), *asked.own)
        try:
            for name in asked.own:
                report = engine.add_adapter(str(self._world.hub[name]), name=name, removable=True)
                if not report.ok:
                    raise ComposerError(f"The soak's own adapter {name} does not fit: {report}")
            composition = Composition(**asked.composition)
            yield engine, engine.resolve(composition, among=names), lane_names(composition, names)
        finally:
            for name in asked.own:
                if name in engine.names:
                    engine.remove_adapter(name)

    def replay(self, asked: Asked, wanted: str, whole: bool) -> tuple[Replay, tuple[str, ...]]:
        """The text alone beside the wanted one, which is all of it or its beginning; and the lanes' names."""
        with self.resolved(asked) as (engine, resolved, names):
            return _Follower(engine, asked, resolved, wanted, whole)(), names

    def text(self, asked: Asked) -> str:
        """The whole text alone."""
        with self.resolved(asked) as (engine, resolved, _):
            steps = list(engine.generate(asked.prompt, resolved, Sampling(**asked.sampling)))
            return steps[-1].text


class _Follower:
    """Writes a text and compares it word for word. Where they part, it looks whether a draw was a tie."""

    def __init__(self, engine: Engine, asked: Asked, resolved: ResolvedComposition, wanted: str, whole: bool):
        self._engine, self._asked, self._resolved = engine, asked, resolved
        self._wanted, self._whole = wanted, whole
        self._sampling = Sampling(**asked.sampling)
        self._noise = ROUNDING[engine.base.spec.quantization]

    def __call__(self, written: Sequence[int] = (), ties: int = 0, beyond: int = 0) -> Replay:
        """written: tokens up to a tie that was found. beyond: how many there must be before they part again:
        a draw that was no tie leads nowhere."""
        with _logits() as seen:
            steps, parted = self._steps(written)
        if not parted:
            return Replay(True, tuple(steps), ties)
        reached = len(written) + len(steps)
        if ties < MOST_TIES and reached > beyond:
            for place in range(len(steps) - 1, max(len(steps) - 2 - HIDDEN, -1), -1):
                before = [*written, *(step.token for step in steps[:place])]
                for token in self._others(before, seen[place], steps[place].token):
                    found = self([*before, token], ties + 1, reached + HIDDEN)
                    if found.agrees:
                        return found
        return Replay(False, tuple(steps), ties)

    def _steps(self, written: Sequence[int]) -> tuple[list[Step], bool]:
        """Steps up to where all is compared, and whether the texts part with the last one."""
        steps: list[Step] = []
        if not self._whole and not self._wanted:
            return steps, False
        if len(written) >= self._sampling.max_new_tokens:
            return steps, False  # a tie at the last token; its text was compared before
        made = self._engine.generate(
            self._asked.prompt, self._resolved, self._sampling, written=tuple(written)
        )
        for step in made:
            steps.append(step)
            if not self._whole and step.text.startswith(self._wanted):
                return steps, False
            if not self._wanted.startswith(step.text):
                return steps, True
        return steps, steps[-1].text != self._wanted if self._whole else True

    def _others(self, before: Sequence[int], logits: torch.Tensor, drawn: int) -> list[int]:
        """The tokens that the same random number draws from logits that rounding moved."""
        ids = [*self._engine.base.encode(self._asked.prompt), *before]
        noise, found = torch.Generator().manual_seed(0), dict[int, None]()
        for _ in range(DRAWS):
            moved = logits + (2 * torch.rand(logits.shape, generator=noise) - 1) * self._noise
            sampler = RowSampler(self._sampling)
            sampler.skip(len(before))
            found[sample_next_tokens([sampler], [ids], moved)[0]] = None
        return [token for token in found if token != drawn]


@contextmanager
def _logits() -> Iterator[list[torch.Tensor]]:
    """The logits of every draw within the block, [1, V] each."""
    seen: list[torch.Tensor] = []
    draw = BatchSampler.__call__

    def noting(self: BatchSampler, logits: torch.Tensor) -> Any:
        seen.append(logits.detach().float().cpu().clone())
        return draw(self, logits)

    BatchSampler.__call__ = noting
    try:
        yield seen
    finally:
        BatchSampler.__call__ = draw

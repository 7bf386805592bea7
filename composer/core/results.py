"""What a generation returns: its steps, their contributions, and fusion weights."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from composer.core.composition import Composition, Sampling


class Fusion(NamedTuple):
    """A prompt's fusion weights; row l is measured after decoder layer l."""

    # Divergence of each adapter's logit lens from the base's, [L, N] nats.
    kl: np.ndarray
    # Each adapter's share of the layer, [L, N]; rows sum to 1.
    alpha: np.ndarray
    # As in Composition.
    norm: bool = True
    tokens: str = "last"
    # Whether the adapters were calibrated against each other first.
    calibrated: bool = False

    @property
    def undecided(self) -> np.ndarray:
        """[L] bool: layers where no adapter moved the lens, so that alpha fell back to 1/N."""
        return self.kl.sum(axis=1) < UNDECIDED


# A layer whose divergences sum to less is undecided.
UNDECIDED = 1e-8


@dataclass(frozen=True)
class Step:
    """One sampled token of one row."""

    # The row's key.
    row: Hashable
    index: int
    token: int
    # What this token adds to the text.
    piece: str
    # The continuation so far, without the prompt.
    text: str
    # [L, N] float32, dimensionless: the size of each adapter's outputs relative to the base's own in the pass
    # that this token was sampled from; see composer.model.contribution.
    contribution: np.ndarray
    # Wall time since the generation began.
    seconds: float
    # None while the row runs, else "length", "end", "time" or "stopped".
    finish: str | None = None


@dataclass(frozen=True)
class GenerationResult:
    """A finished generation as plain numbers: what the CLI prints and what the figures draw."""

    base: str
    prompt: str
    composition: Composition
    sampling: Sampling
    adapters: tuple[str, ...]
    layers: int
    steps: tuple[Step, ...]
    fusion: Fusion | None = None

    @property
    def text(self) -> str:
        return self.steps[-1].text if self.steps else ""

    @property
    def contribution(self) -> np.ndarray:
        """[T, L, N] float32."""
        if not self.steps:
            return np.zeros((0, self.layers, len(self.adapters)), np.float32)
        return np.stack([step.contribution for step in self.steps])

    @property
    def tokens_per_second(self) -> float:
        """Rate of decoding after the first token; 0 with fewer than two tokens."""
        if len(self.steps) < 2:
            return 0.0
        span = self.steps[-1].seconds - self.steps[0].seconds
        return (len(self.steps) - 1) / span if span > 0 else 0.0

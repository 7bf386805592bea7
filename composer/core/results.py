"""What a generation returns: its steps, their contributions, and fusion weights."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from composer.core.composition import Composition, Sampling


class Fusion(NamedTuple):
    """The KL rule's reading of a prompt: `kl` [L, N] in nats and `alpha` [L, N], rows summing to 1.

    Layer l of both is read after decoder layer l. norm, tokens: as Composition has them. calibrated: whether
    the adapters were calibrated against each other first.
    """

    kl: np.ndarray
    alpha: np.ndarray
    norm: bool = True
    tokens: str = "last"
    calibrated: bool = False

    @property
    def undecided(self) -> np.ndarray:
        """[L] bool: layers where no adapter moved the lens, so that alpha fell back to 1/N."""
        return self.kl.sum(axis=1) < UNDECIDED


UNDECIDED = 1e-8


@dataclass(frozen=True)
class Step:
    """One drawn token of one row.

    text: the continuation so far, without the prompt. contribution: [L, N] float32, the share of
    each layer's base output that each adapter added in the pass that chose this token
    (dimensionless; design formula in insight/contribution.py). finish: None while running, else
    "length", "end", "time" or "stopped". seconds: wall time since the generation began.
    """

    row: Hashable
    index: int
    token: int
    piece: str
    text: str
    contribution: np.ndarray
    seconds: float
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

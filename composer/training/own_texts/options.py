"""What whoever trains on own texts may choose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """None: chosen from the amount of text, or from the size of the base."""

    steps: int | None = None
    rank: int = 8
    learning_rate: float | None = None
    alpha_gain: float = 1.0
    seed: int = 7
    batch: int = 8
    length: int = 64

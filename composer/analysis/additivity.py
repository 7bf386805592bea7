"""Does superposition hold? How much of the composed change of the logits is the sum of the single ones."""

from __future__ import annotations

import numpy as np

ROUNDING = 1e-6


def additivity(base: np.ndarray, alone: np.ndarray, composed: np.ndarray) -> float:
    """1 - |l_all - l0 - sum_i (l_i - l0)| / |l_all - l0| of next-token logits.

    base, composed: [V]. alone: [n, V], each adapter alone with the gates it has in the composition. 1: the
    composition is the sum of its parts; 0 and less: the adapters work on each other between the layers. NaN
    when the composition changes nothing.
    """
    change = composed.astype(np.float64) - base  # [V]
    parts = (alone.astype(np.float64) - base).sum(axis=0)  # [V]
    size = float(np.linalg.norm(change))
    # Two rows of one batch that compute the same thing may round differently.
    rounding = ROUNDING * float(np.linalg.norm(base.astype(np.float64)))
    return 1 - float(np.linalg.norm(change - parts)) / size if size > rounding else float("nan")


def additivity_by_token(base: np.ndarray, alone: np.ndarray, composed: np.ndarray) -> np.ndarray:
    """[T]: as `additivity` at each token of a text. base, composed: [T, V]. alone: [n, T, V]."""
    return np.array([additivity(base[t], alone[:, t], composed[t]) for t in range(len(base))])

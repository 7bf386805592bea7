"""Which layers the composition needs: what a text and the next token lose when a band of them is silent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BANDS = ("early", "middle", "late")


@dataclass(frozen=True)
class LayerAblation:
    """The text without one band of layers, for each of the n adapters and for all of them.

    Shapes are [3, n + 1], with bands as in BANDS.
    """

    # Of the composed log-probability of the text, mean nats per token; negative where the band carried the
    # text.
    change: np.ndarray
    # KL(composed || without the band) in nats, of the token after the prompt.
    kl: np.ndarray


def leave_out(gates: np.ndarray, band: np.ndarray) -> np.ndarray:
    """[3, n + 1, L, n] gates: band k of adapter i, or of all of them (last), set to 0.

    gates: [L, n]. band: [L], each layer's place in BANDS.
    """
    layers, count = gates.shape
    kept = band != np.arange(len(BANDS))[:, None]  # [3, L]
    keeps = np.ones((len(BANDS), count + 1, layers, count), gates.dtype)
    for column in range(count):
        keeps[:, column, :, column] = kept
    keeps[:, count] = kept[:, :, None]
    return gates * keeps


def divergence(composed: np.ndarray, others: np.ndarray) -> np.ndarray:
    """KL(composed || other) in nats of logits [V] and [..., V] -> [...]."""
    p, q = _log_softmax(composed), _log_softmax(others)
    # Rounding can leave a tiny negative where the two agree; a divergence has none.
    return (np.exp(p) * (p - q)).sum(axis=-1).clip(min=0)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

"""Does alpha say anything about the prompt, or only which adapter is loud?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def layer_norms(
    norms: Mapping[str, Mapping[str, float]], names: Sequence[str], layer_of: Mapping[str, int], layers: int
) -> np.ndarray:
    """[L, N] Frobenius norm of each adapter's change in each layer, its sites taken together."""
    squares = np.zeros((layers, len(names)))
    for column, name in enumerate(names):
        for path, norm in norms[name].items():
            squares[layer_of[path], column] += norm**2
    return np.sqrt(squares)


def norm_correlation(
    alpha: np.ndarray,
    norms: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
    layer_of: Mapping[str, int],
) -> float | None:
    """Pearson correlation of alpha [L, N] with the adapters' share of the layer's norm.

    None where it is undefined: fewer than two adapters, or one of the two does not vary.
    """
    own = layer_norms(norms, names, layer_of, len(alpha))  # [L, N]
    total = own.sum(axis=1, keepdims=True)
    share = np.divide(own, total, out=np.zeros_like(own), where=total > 0)
    if alpha.shape[1] < 2 or np.ptp(alpha) == 0 or np.ptp(share) == 0:
        return None
    return float(np.corrcoef(alpha.ravel(), share.ravel())[0, 1])

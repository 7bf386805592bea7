"""Whether alpha depends on the prompt, or only on each adapter's norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from composer.core.results import Fusion

if TYPE_CHECKING:
    from composer.engine.engine import Engine


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


def alpha_norm_correlation(
    engine: Engine, fusion: Fusion, names: Sequence[str] | None = None
) -> float | None:
    """`norm_correlation` of a fusion with the norms of the engine's adapters.

    names: the adapters of the fusion's columns (None: all that are loaded). A larger adapter diverges more
    whatever the prompt, so a value near 1 means that alpha depends little on this prompt.
    """
    columns = engine.names if names is None else tuple(names)
    return norm_correlation(fusion.alpha, engine.snapshot.bank.norms, columns, engine.model.layer_of)

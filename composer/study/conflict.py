"""How far two modules' changes of the weights point the same way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from composer.engine import Engine
from composer.insight.deltas import compare_deltas
from composer.model.norms import weight_norms


def delta_cosine(engine: Engine) -> Callable[[str, str], float]:
    """(adapter, adapter) -> cosine of their changes, all sites together; 0 where one changes nothing."""
    bank, model = engine.bank, engine.model
    deltas = compare_deltas(bank, model.layer_of, model.layers, weight_norms(model, bank.sites))
    inner = np.nan_to_num(deltas.cosine) * deltas.norm[:, :, None] * deltas.norm[:, None, :]  # [L, n, n]
    total = inner.sum(axis=0)  # [n, n]
    norms = np.sqrt(np.diag(total))  # [n]

    def cosine(one: str, two: str) -> float:
        i, j = bank.names.index(one), bank.names.index(two)
        size = norms[i] * norms[j]
        return float(total[i, j] / size) if size else 0.0

    return cosine

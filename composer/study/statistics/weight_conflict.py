"""How far two modules' changes of the weights point the same way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from composer.analysis.weight_deltas import compare_deltas
from composer.engine.engine import Engine
from composer.model.weight_norms import weight_norms


def delta_cosine(engine: Engine) -> Callable[[str, str], float]:
    """(adapter, adapter) -> cosine of their changes, all sites together; 0 where one changes nothing."""
    bank, model = engine.snapshot.bank, engine.model
    deltas = compare_deltas(bank, model.layer_of, model.layers, weight_norms(model, bank.sites))
    whole = np.nan_to_num(deltas.overall)  # [n, n]
    return lambda one, two: float(whole[bank.names.index(one), bank.names.index(two)])

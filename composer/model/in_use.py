"""Leaves out of a pass the adapters that add nothing to any of its rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from composer.model.rank_layout import Layout
from composer.model.runtime.token_routing import RouterConfig

Routes = Sequence[RouterConfig | None]


def in_use(
    layout: Layout, gates: Sequence[np.ndarray], routes: Routes = ()
) -> tuple[Layout, np.ndarray, list[RouterConfig | None]]:
    """The layout, the rows' gates [P, L, n] and their routes, of the adapters that some row uses.

    gates: each row's [L, N]. A row that is older than the newest adapters has fewer columns, and one whose
    gates were computed anew after others came has more: it has gate 0 for all of those. Adapters that take
    part in a row's routing stay: they share in it with gate 0, too.
    """
    count = len(layout.bank.names)
    whole = np.stack([_fitted(each, count) for each in gates])  # [P, L, N]
    wanted = whole.any(axis=(0, 1))  # [N]
    for route in routes:
        if route is not None:
            wanted[: len(route.part)] |= route.part
    columns = np.flatnonzero(wanted).tolist()
    kept = [None if route is None else route.select(columns) for route in routes]
    return layout.select(columns), whole[:, :, columns], kept


def _fitted(gates: np.ndarray, count: int) -> np.ndarray:
    """[L, any] -> [L, count]."""
    assert not gates[:, count:].any(), "a row uses an adapter that its batch has not"
    return np.pad(gates[:, :count], ((0, 0), (0, max(count - gates.shape[1], 0))))

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

    gates: each row's [L, N]. A row that is older than the newest adapters has fewer columns and gate 0 for
    them. Adapters that take part in a row's routing stay: they share in it with gate 0, too.
    """
    count = len(layout.bank.names)
    whole = np.stack([np.pad(each, ((0, 0), (0, count - each.shape[1]))) for each in gates])  # [P, L, N]
    wanted = whole.any(axis=(0, 1))  # [N]
    for route in routes:
        if route is not None:
            wanted[: len(route.part)] |= route.part
    columns = np.flatnonzero(wanted).tolist()
    kept = [None if route is None else route.select(columns) for route in routes]
    return layout.select(columns), whole[:, :, columns], kept

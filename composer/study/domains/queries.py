"""What methods read of a query, each statistic computed once however many methods want it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from composer.core.errors import ComposerError
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.engine.engine import Engine
from composer.engine.gate_planner import GatePlanner
from composer.engine.prompt_analyzer import PromptAnalyzer
from composer.engine.resolve import ResolvedComposition
from composer.methods import fuse
from composer.model.runtime.prefill import PrefillOutput

# What an adapter's share of a layer is made of -> what a report calls it.
MEASURES: Mapping[str, str] = {
    "kl": "KL, final norm in the lens",
    "kl-published": "KL, no final norm",
    "cosine": "Cosine distance of hidden states",
    "logo": "Output norm at the last query projection (LoGo)",
    "contribution": "Output norm relative to the base (contribution)",
}


class _SharedAnalyzer(PromptAnalyzer):
    """A PromptAnalyzer that remembers what it computed of the latest query."""

    def __init__(self, engine: Engine):
        super().__init__(engine.model, engine.runner)
        self._query: tuple[int, ...] = ()
        self._known: dict[tuple[object, ...], object] = {}

    def divergence(
        self,
        snapshot: AdapterSnapshot,
        ids: Sequence[int],
        columns: list[int],
        norm: bool,
        every: bool = False,
    ) -> np.ndarray:
        return self._once(super().divergence, snapshot, ids, columns, norm, every)

    def query_norm(self, snapshot: AdapterSnapshot, ids: Sequence[int], columns: list[int]) -> np.ndarray:
        return self._once(super().query_norm, snapshot, ids, columns)

    def _alone(
        self,
        snapshot: AdapterSnapshot,
        ids: Sequence[int],
        columns: list[int],
        every: bool = False,
        unembed: bool = False,
    ) -> PrefillOutput:
        return self._once(super()._alone, snapshot, ids, columns, every, unembed)

    def _once(
        self,
        compute: Callable[..., Any],
        snapshot: AdapterSnapshot,
        ids: Sequence[int],
        columns: list[int],
        *more: bool,
    ) -> Any:
        if tuple(ids) != self._query:
            self._query, self._known = tuple(ids), {}
        key = compute.__name__, tuple(columns), *more
        if key not in self._known:
            self._known[key] = compute(snapshot, ids, columns, *more)
        return self._known[key]


class QueryReader:
    """Gates and shares of queries, computed as for a generation's prompt. The bank must not change."""

    def __init__(self, engine: Engine, names: Sequence[str]):
        self._analyzer = _SharedAnalyzer(engine)
        self._planner = GatePlanner(self._analyzer)
        self._snapshot, self._layers = engine.snapshot, engine.model.layers
        self._columns = [self._snapshot.column(name) for name in names]

    def gates(self, resolved: ResolvedComposition, ids: Sequence[int]) -> np.ndarray:
        """[L, N] over the bank's columns: the gates that continue a query's token ids under a composition.

        Its method is one on outputs: with one branch.
        """
        (gates,) = self._planner(self._snapshot, resolved, ids).gates
        return gates

    def shares(self, ids: Sequence[int]) -> dict[str, np.ndarray]:
        """Measure -> each adapter's share of every layer, [L, N], rows sum to 1; see MEASURES.

        LoGo's is the same in all layers, and is left out where no adapter has its site.
        """
        read = (self._snapshot, ids, self._columns)
        measured = {
            "kl": self._analyzer.divergence(*read, True),
            "kl-published": self._analyzer.divergence(*read, False),
            "cosine": self._analyzer.distance(*read),
        }
        try:
            norms = self._analyzer.query_norm(*read)  # [N]
            measured["logo"] = np.tile(norms, (self._layers, 1))
        except ComposerError:
            pass
        measured["contribution"] = self._analyzer.contribution(*read)
        return {name: fuse(each).alpha for name, each in measured.items()}

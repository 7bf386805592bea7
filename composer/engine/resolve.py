"""Resolves a composition against the loaded adapters, once; everything below works with the result."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from composer.core.composition import Composition
from composer.core.curves import changes, is_on, over_layers
from composer.core.errors import ComposerError
from composer.core.names import merged_name, unknown_name_message
from composer.core.results import Fusion
from composer.engine.adapter_pool import AdapterPool, SlotLease
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.engine.materialize import Executor, materialize, run_inline
from composer.methods import METHODS, Method
from composer.model.gated_model import GatedModel
from composer.model.runtime.token_routing import RouterConfig


@dataclass(frozen=True)
class ResolvedComposition:
    """A composition with its method, bank columns and weights looked up. Immutable.

    It stays valid under any newer bank: columns are only ever appended, and those of materialized adapters
    are kept while `leases` are held.
    """

    composition: Composition
    method: Method
    # The N axis of its contributions: the loaded adapters, then the merged adapter if the method makes one.
    lanes: tuple[str, ...]
    columns: np.ndarray  # [N] int, each lane's column of the bank
    weights: np.ndarray  # [N]
    # Lanes that are opposites of each other, as sets of indices of two or more.
    groups: tuple[tuple[int, ...], ...]
    layers: int
    # Multipliers of the weights, [L, N]; None: 1 everywhere.
    curves: np.ndarray | None = None
    leases: tuple[SlotLease, ...] = ()

    @property
    def merged(self) -> bool:
        """Whether the last lane is an adapter merged from the others."""
        return bool(self.leases) and self.method.merge is not None

    @property
    def calibrated(self) -> bool:
        """Whether the adapters with a weight were calibrated against each other first (Pico)."""
        return bool(self.leases) and self.method.merge is None

    @property
    def notes(self) -> Mapping[str, float]:
        """Measurements of a merge; see composer.methods.merging.Merged."""
        return {name: value for lease in self.leases for name, value in lease.notes.items()}

    @property
    def refresh_every(self) -> int:
        """Recompute the gates after so many tokens; 0: never."""
        return self.composition.live if "live" in self.method.parameters else 0

    @property
    def schedule_changes(self) -> frozenset[int]:
        """The numbers of sampled tokens after which the schedule changes the weights."""
        return changes(self.composition.schedule)

    def weights_at(self, token: int) -> np.ndarray:
        """[N]: the weights for a new token, counted from 1, under the schedule."""
        spans = self.composition.schedule
        on = [is_on(spans.get(name), token) for name in self.lanes]
        return self.weights * on

    def lane_indices(self, names: Sequence[str]) -> list[int]:
        """The lanes of these adapters, then that of the merged adapter if there is one."""
        return [self.lanes.index(name) for name in names] + [len(self.lanes) - 1] * self.merged

    def missing_stats(self, fusion: Fusion | None) -> tuple[str, ...]:
        """The prompt statistics that have to be computed; none where the prompt's fusion is all it takes."""
        return () if fusion is not None and self._takes(fusion) else self.method.prompt_stats

    def _takes(self, fusion: Fusion) -> bool:
        read = (fusion.norm, fusion.tokens, fusion.calibrated)
        wanted = (self.composition.norm, self.composition.tokens, bool(self.leases))
        shape = (self.layers, len(self.lanes))
        return self.method.prompt_stats == ("kl",) and read == wanted and fusion.kl.shape == shape

    def scatter_to_bank(self, values: np.ndarray, columns: int) -> np.ndarray:
        """Values of the lanes, [..., N], over a bank of so many columns; 0 elsewhere."""
        whole = np.zeros((*values.shape[:-1], columns), values.dtype)
        whole[..., self.columns] = values
        return whole

    def router(self, columns: int) -> RouterConfig | None:
        """How tokens weight the adapters, for a bank of so many columns; None where that changes nothing."""
        active = self.weights != 0  # [N]
        if not self.method.token_routed or self.composition.blend == 0 or active.sum() < 2:
            return None
        scale = self.composition.scale == "unit"
        return RouterConfig(self.scatter_to_bank(active, columns), self.composition.blend, scale)


def find_method(composition: Composition) -> Method:
    """The method of a composition. Raises ComposerError for an unknown one."""
    if composition.method not in METHODS:
        raise ComposerError(unknown_name_message("method", composition.method, METHODS))
    return METHODS[composition.method]


def requires_materialization(composition: Composition) -> bool:
    """Whether adapters have to be merged or calibrated first, which can take half a minute.

    With one adapter there is nothing to merge: every method gives that adapter.
    """
    method = find_method(composition)
    active = sum(weight != 0 for weight in composition.weights.values())
    return active > 1 and (method.merge is not None or method.calibrated)


def lane_names(composition: Composition, names: Sequence[str]) -> tuple[str, ...]:
    """The lanes that a composition will have where these adapters are loaded, before it is resolved.

    A merged adapter is called by its method, in brackets where an adapter has that name.
    """
    merged = requires_materialization(composition) and find_method(composition).merge
    return (*names, merged_name(composition.method, names)) if merged else tuple(names)


def resolve(
    pool: AdapterPool,
    composition: Composition,
    opposites: Sequence[Sequence[str]],
    model: GatedModel,
    execute: Executor = run_inline,
) -> ResolvedComposition:
    """Look everything up, and materialize the adapters that the method makes of others.

    opposites: groups of adapters that exclude each other. execute: runs each of many small pieces of work.
    Raises ComposerError for an unknown name or method, for adapters that cannot be merged, and for a schedule
    with a method that cannot follow it.
    """
    snapshot, method = pool.snapshot, find_method(composition)
    weights = _weights(snapshot, composition)  # [N]
    curves = _curves(snapshot, composition, model.layers)  # [L, N]
    _check_schedule(snapshot, method, composition)
    columns = np.array([snapshot.column(name) for name in snapshot.names], int)
    lanes, leases = snapshot.names, tuple[SlotLease, ...]()
    if requires_materialization(composition):
        leases = _materialize(pool, snapshot, method, composition, weights, curves, model.layer_of, execute)
        made = [pool.snapshot.bank.names.index(lease.name) for lease in leases]
        if method.merge is None:
            columns[np.flatnonzero(weights)] = made
        else:
            lanes = lane_names(composition, snapshot.names)
            columns = np.array([*columns, *made], int)
            weights, curves = np.array([*np.zeros_like(weights), 1.0]), None
    found = (tuple(lanes.index(name) for name in group if name in lanes) for group in opposites)
    groups = tuple(group for group in found if len(group) > 1)
    return ResolvedComposition(
        composition, method, lanes, columns, weights, groups, model.layers, curves, leases
    )


def _weights(snapshot: AdapterSnapshot, composition: Composition) -> np.ndarray:
    """[N]: each loaded adapter's weight, 0 for those not named. Raises ComposerError for an unknown name."""
    weights = np.zeros(len(snapshot.names))
    for name, weight in composition.weights.items():
        weights[snapshot.index(name)] = weight
    return weights


def _curves(snapshot: AdapterSnapshot, composition: Composition, layers: int) -> np.ndarray | None:
    """[L, N] multipliers; None without curves."""
    if not composition.curves:
        return None
    curves = np.ones((layers, len(snapshot.names)))
    for name, anchors in composition.curves.items():
        curves[:, snapshot.index(name)] = over_layers(anchors, layers)
    return curves


def _check_schedule(snapshot: AdapterSnapshot, method: Method, composition: Composition) -> None:
    for name in composition.schedule:
        snapshot.index(name)
    if composition.schedule and (method.on_logits or method.merge is not None):
        raise ComposerError(
            f"{method.label} cannot follow a schedule over tokens; choose a method that adds outputs, such "
            "as sum, or leave the schedule out."
        )


def _materialize(
    pool: AdapterPool,
    snapshot: AdapterSnapshot,
    method: Method,
    composition: Composition,
    weights: np.ndarray,
    curves: np.ndarray | None,
    layer_of: Mapping[str, int],
    execute: Executor,
) -> tuple[SlotLease, ...]:
    active = np.flatnonzero(weights).tolist()
    names, shares = [snapshot.names[index] for index in active], weights[active].tolist()
    parameters = tuple(getattr(composition, name) for name in method.parameters)
    keys: list[Hashable] = [("calibrated", tuple(names), name) for name in names]
    own = None if curves is None else curves[:, active]  # [L, n]
    if method.merge is not None:
        shape = None if own is None else own.tobytes()
        keys = [(method.merge, parameters, tuple(zip(names, shares, strict=True)), shape)]
    adapters = [snapshot.bank.adapter(name) for name in names]

    def weights_at(path: str) -> list[float]:
        return shares if own is None else (np.array(shares) * own[layer_of[path]]).tolist()

    return pool.made(keys, lambda: materialize(method, adapters, weights_at, composition, execute))

"""Resolves a composition against the loaded adapters, once; everything below works with the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from composer.adapters.bank import Adapter
from composer.core.composition import Composition
from composer.core.curves import changes, is_on, over_layers
from composer.core.errors import ComposerError
from composer.core.names import merged_name, unknown_name_message
from composer.core.results import Fusion
from composer.engine.adapter_pool import AdapterPool, MergeKey, SlotLease
from composer.engine.execution import Executor, run_inline
from composer.engine.materialize import materialize, strongest
from composer.methods import METHODS, Method
from composer.methods.merging import CALIBRATIONS
from composer.model.gated_model import GatedModel
from composer.model.runtime.token_routing import RouterConfig


@dataclass(frozen=True)
class ResolvedComposition:
    """A composition with its method, bank columns and weights looked up. Immutable.

    It stays valid under any newer bank: columns are only ever appended, and those of materialized and of
    removed adapters are kept while `leases` and `held` are.
    """

    composition: Composition
    method: Method
    # The N axis of its contributions: the adapters that it was resolved among, then the merged adapter if the
    # method makes one.
    lanes: tuple[str, ...]
    columns: np.ndarray  # [N] int, each lane's column of the bank
    weights: np.ndarray  # [N]
    # Lanes that are opposites of each other, as sets of indices of two or more.
    groups: tuple[tuple[int, ...], ...]
    layers: int
    # Multipliers of the weights, [L, N]; None: 1 everywhere.
    curves: np.ndarray | None = None
    leases: tuple[SlotLease, ...] = ()
    # Of the lanes that can be removed.
    held: tuple[SlotLease, ...] = ()

    @property
    def merged(self) -> bool:
        """Whether the last lane is an adapter merged from the others."""
        return bool(self.leases) and self.method.merge is not None

    @property
    def calibrated(self) -> bool:
        """Whether the adapters with a weight were calibrated against each other first."""
        return bool(self.leases) and self.method.merge is None

    @property
    def notes(self) -> Mapping[str, float]:
        """Measurements of a merge; see composer.methods.merging.Merged."""
        return {name: value for lease in self.leases for name, value in lease.notes.items()}

    @property
    def refresh_every(self) -> int:
        """Recompute the gates after so many tokens; 0: never."""
        if self.method.every_token:
            return 1
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
        asked, heard = self.composition, self.method.parameters
        return RouterConfig(
            self.scatter_to_bank(active, columns),
            asked.blend,
            asked.scale == "unit",
            self.method.by_norm,
            asked.top_adapters if "top_adapters" in heard else None,
        )


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
    among: Sequence[str] | None = None,
) -> ResolvedComposition:
    """Look everything up, and materialize the adapters that the method makes of others.

    opposites: groups of adapters that exclude each other. execute: runs each of many small pieces of work.
    among: the adapters there are for whoever asks (None: all that are loaded). Raises ComposerError for an
    unknown name or method, for adapters that cannot be merged, and for a schedule with a method that cannot
    follow it.
    """
    # Held first, so that what is found after it stays.
    held = pool.hold(pool.snapshot.names if among is None else among)
    snapshot, method = pool.snapshot, find_method(composition)
    lanes, leases = snapshot.names if among is None else tuple(among), tuple[SlotLease, ...]()
    weights = _weights(lanes, composition)  # [N]
    curves = _curves(lanes, composition, model.layers)  # [L, N]
    _check_schedule(lanes, method, composition)
    columns = np.array([snapshot.column(name) for name in lanes], int)
    if requires_materialization(composition):
        active = [lanes[lane] for lane in np.flatnonzero(weights)]
        adapters = [snapshot.bank.adapter(name) for name in active]
        own = None if curves is None else curves[:, weights != 0]  # [L, n]
        shares = weights[weights != 0].tolist()
        leases = _materialize(
            pool,
            method,
            composition,
            dict(zip(active, adapters, strict=True)),
            shares,
            own,
            model.layer_of,
            execute,
        )
        made = [pool.snapshot.bank.names.index(lease.name) for lease in leases]
        if method.merge is None:
            columns[np.flatnonzero(weights)] = made
        else:
            lanes = lane_names(composition, lanes)
            columns = np.array([*columns, *made], int)
            weights, curves = np.array([*np.zeros_like(weights), 1.0]), None
    found = (tuple(lanes.index(name) for name in group if name in lanes) for group in opposites)
    groups = tuple(group for group in found if len(group) > 1)
    return ResolvedComposition(
        composition, method, lanes, columns, weights, groups, model.layers, curves, leases, held
    )


def _index(lanes: Sequence[str], name: str) -> int:
    """The lane of an adapter. Raises ComposerError for an unknown name."""
    if name not in lanes:
        raise ComposerError(unknown_name_message("adapter", name, lanes))
    return lanes.index(name)


def _weights(lanes: Sequence[str], composition: Composition) -> np.ndarray:
    """[N]: each adapter's weight, 0 for those not named."""
    weights = np.zeros(len(lanes))
    for name, weight in composition.weights.items():
        weights[_index(lanes, name)] = weight
    return weights


def _curves(lanes: Sequence[str], composition: Composition, layers: int) -> np.ndarray | None:
    """[L, N] multipliers; None without curves."""
    if not composition.curves:
        return None
    curves = np.ones((layers, len(lanes)))
    for name, anchors in composition.curves.items():
        curves[:, _index(lanes, name)] = over_layers(anchors, layers)
    return curves


def _check_schedule(lanes: Sequence[str], method: Method, composition: Composition) -> None:
    for name in composition.schedule:
        _index(lanes, name)
    if composition.schedule and (method.on_logits or method.merge is not None):
        raise ComposerError(
            f"{method.label} cannot follow a schedule over tokens; choose a method that adds outputs, such "
            "as sum, or leave the schedule out."
        )


def _materialize(
    pool: AdapterPool,
    method: Method,
    composition: Composition,
    adapters: Mapping[str, Adapter],
    shares: Sequence[float],
    curves: np.ndarray | None,
    layer_of: Mapping[str, int],
    execute: Executor,
) -> tuple[SlotLease, ...]:
    """adapters: the n active ones. shares: their weights. curves: their multipliers, [L, n]."""
    names, keys = tuple(adapters), []
    if method.merge is not None:
        parameters = tuple(getattr(composition, name) for name in method.parameters)
        shape = None if curves is None else curves.tobytes()
        keys = [MergeKey(names, (method.merge, parameters, tuple(shares), shape))]
    else:
        calibration = CALIBRATIONS[method.calibration]
        parameters = tuple(getattr(composition, name) for name in calibration.parameters)
        kept = strongest(shares) if calibration.ranked else None
        keys = [MergeKey(names, ("calibrated", calibration.name, parameters, kept, name)) for name in names]

    def weights_at(path: str) -> Sequence[float]:
        return shares if curves is None else (np.array(shares) * curves[layer_of[path]]).tolist()

    own = list(adapters.values())
    return pool.made(keys, lambda: materialize(method, own, shares, weights_at, composition, execute))

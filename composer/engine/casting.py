"""Who plays in a composition: the adapters that are asked for, or what the method makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.core.names import made_name, unknown_name_message
from composer.engine.adapter_pool import AdapterPool, SlotLease
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.engine.materialize import Executor, make, run_inline
from composer.methods import METHODS, Method


@dataclass(frozen=True)
class ResolvedComposition:
    """n names, the bank's column of each and its weight, [n]. leases: held while the columns must stay.

    merged: whether the last of them is what the method makes of the others.
    """

    names: tuple[str, ...]
    columns: np.ndarray
    weights: np.ndarray
    leases: tuple[SlotLease, ...] = ()
    merged: bool = False

    def places(self, names: Sequence[str]) -> list[int]:
        """Where these adapters are among its names, and after them the merged one if there is one."""
        return [self.names.index(name) for name in names] + [len(self.names) - 1] * self.merged

    @property
    def notes(self) -> Mapping[str, float]:
        """What is worth knowing of a merged adapter; see composer.methods.merging.Merged."""
        return {name: value for lease in self.leases for name, value in lease.notes.items()}

    def spread(self, gates: np.ndarray, count: int) -> np.ndarray:
        """Gates of the cast, [..., n], over a bank of N = count columns, [..., N]."""
        whole = np.zeros((*gates.shape[:-1], count), gates.dtype)
        whole[..., self.columns] = gates
        return whole


def method_of(composition: Composition) -> Method:
    """Raises ComposerError for a method that is not here."""
    if composition.method not in METHODS:
        raise ComposerError(unknown_name_message("method", composition.method, METHODS))
    return METHODS[composition.method]


def weights_of(snapshot: AdapterSnapshot, composition: Composition) -> np.ndarray:
    """[N]: the weight of each adapter of the shelf, 0 for those not named. Raises ComposerError for a
    strange name."""
    weights = np.zeros(len(snapshot.names))
    for name, weight in composition.weights.items():
        weights[snapshot.index(name)] = weight
    return weights


def makes(composition: Composition) -> bool:
    """Whether adapters are made for it. Of a single one nothing is: it is what every method makes of it."""
    method, part = method_of(composition), sum(weight != 0 for weight in composition.weights.values())
    return part > 1 and (method.merge is not None or method.calibrated)


def cast(pool: AdapterPool, composition: Composition, through: Executor = run_inline) -> ResolvedComposition:
    """Everybody's columns; makes what has to be made, through `through`, which can take half a minute.

    Raises ComposerError for a name or a method that is not here, and for what cannot be made.
    """
    snapshot = pool.snapshot
    weights = weights_of(snapshot, composition)
    columns = np.array([snapshot.column(name) for name in snapshot.names], int)
    if not makes(composition):
        return ResolvedComposition(snapshot.names, columns, weights)
    method, part = method_of(composition), np.flatnonzero(weights).tolist()
    names, shares = [snapshot.names[place] for place in part], weights[part].tolist()
    told = tuple(getattr(composition, dial) for dial in method.parameters) if method.merge else ()
    pairs = tuple(zip(names, shares, strict=True)) if method.merge else tuple(names)
    keys = [(method.merge, told, pairs)] if method.merge else [("calibrated", pairs, name) for name in names]
    adapters = (snapshot.bank.adapter(name) for name in names)
    leases = pool.made(keys, lambda: make(method, list(adapters), shares, composition, through))
    made = [pool.snapshot.bank.names.index(lease.name) for lease in leases]
    if method.merge is None:
        columns[part] = made
        return ResolvedComposition(snapshot.names, columns, weights, leases)
    return ResolvedComposition(
        (*snapshot.names, made_name(method.name, snapshot.names)),
        np.array([*columns, *made], int),
        np.array([*np.zeros_like(weights), 1.0]),
        leases,
        merged=True,
    )


def names_of(names: Sequence[str], composition: Composition) -> tuple[str, ...]:
    """The names of its cast where these are the adapters; known before anything is made."""
    merged = makes(composition) and method_of(composition).merge
    return (*names, made_name(composition.method, names)) if merged else tuple(names)

"""The shelf as it changes: adapters that come to stay, and what is made of them for as long as it is used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from threading import Lock
from weakref import ref

from composer.adapters.bank import Adapter, AdapterBank
from composer.core.catalog_types import AdapterSpec
from composer.core.errors import ComposerError
from composer.core.names import RESERVED, name_fault
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.methods.merging import Merged
from composer.model.gated_model import GatedModel

# Ranks of all places together while several people's adapters are held; each costs everybody a little at
# every layer. One composition alone gets what it needs, which is about what its own adapters take.
MAX_POOL_RANK = 128
# Ranks of places are multiples of it, so that a place fits the next adapter too.
RANK_ALIGNMENT = 8


class PoolExhausted(ComposerError):
    """All room is in use; there will be some when somebody is done."""


class SlotLease:
    """Whoever holds it can count on the bank's column of this name to stay what it is. notes: on that."""

    def __init__(self, name: str, notes: Mapping[str, float]):
        self.name, self.notes = name, notes


@dataclass
class PoolSlot:
    """A column for made adapters. key: what it holds; lease: who last had it, if anybody still does.

    rank, sites: what fits; without rank it costs nothing and waits to be given some.
    """

    name: str
    rank: int = 0
    sites: frozenset[str] = frozenset()
    key: Hashable = None
    notes: Mapping[str, float] = field(default_factory=dict)
    lease: Callable[[], SlotLease | None] = lambda: None


class AdapterPool:
    """Holds the newest shelf. Thread-safe.

    Columns of the bank only ever come in as last ones, and a made adapter's is overwritten only when
    nobody holds its lease; so whoever has gates, and leases where they need them, can run under any newer
    shelf. changed: told after each change of the bank's shape.
    """

    def __init__(self, model: GatedModel, changed: Callable[[], None] = lambda: None):
        self.snapshot = AdapterSnapshot.of(model, AdapterBank(), ())
        self._model, self._changed = model, changed
        self._places: list[PoolSlot] = []
        self._changing, self._making = Lock(), Lock()

    def add(self, spec: AdapterSpec, factors: Adapter) -> None:
        """One more adapter to ask for. Raises ComposerError for a name that is taken, or cannot be one."""
        with self._changing:
            if fault := name_fault(spec.name, self.snapshot.names):
                raise ComposerError(fault)
            bank = self.snapshot.bank.add(spec.name, factors)
            self.snapshot = AdapterSnapshot.of(self._model, bank, (*self.snapshot.adapters, spec))
        self._changed()

    def made(self, keys: Sequence[Hashable], make: Callable[[], Sequence[Merged]]) -> tuple[SlotLease, ...]:
        """Leases of the adapters with these keys, made if they are not in the bank any more.

        make: all of them, in the order of the keys; may take long. Raises Full while others use the
        room.
        """
        if found := self._found(keys):
            return found
        with self._making:
            return self._found(keys) or self._put(dict(zip(keys, make(), strict=True)))

    def _found(self, keys: Sequence[Hashable]) -> tuple[SlotLease, ...]:
        with self._changing:
            places = {place.key: place for place in self._places}
            return tuple(_leased(places[key]) for key in keys) if set(keys) <= set(places) else ()

    def _put(self, made: Mapping[Hashable, Merged]) -> tuple[SlotLease, ...]:
        with self._changing:
            # On copies, so that a house that is full half-way leaves everything as it was.
            bank, places = self.snapshot.bank, list(map(copy, self._places))
            others, leases = any(place.lease() for place in places), []
            for key, each in made.items():
                place = _free(places, each.adapter)
                if place is None:
                    bank, place = _allocate(bank, places, each.adapter, others)
                bank = bank.fill(place.name, each.adapter)
                place.key, place.notes = key, each.notes
                leases.append(_leased(place))
            before, after = [[(each.rank, each.sites) for each in own] for own in (self._places, places)]
            self._places, self.snapshot = (
                places,
                AdapterSnapshot.of(self._model, bank, self.snapshot.adapters),
            )
        if before != after:
            self._changed()
        return tuple(leases)


def _free(places: Sequence[PoolSlot], adapter: Adapter) -> PoolSlot | None:
    rank, sites = _rank(adapter), adapter.keys()
    fitting = (
        place for place in places if place.lease() is None and place.rank >= rank and sites <= place.sites
    )
    return min(fitting, key=lambda place: place.rank, default=None)


def _allocate(
    bank: AdapterBank, places: list[PoolSlot], adapter: Adapter, others: bool
) -> tuple[AdapterBank, PoolSlot]:
    """A place of the adapter's size, at the cost of idle ones where the room is not enough.

    others: whether anybody else holds a lease. Raises Full where they have too much of the room.
    """
    rank = -(-_rank(adapter) // RANK_ALIGNMENT) * RANK_ALIGNMENT
    idle = sorted((each for each in places if each.lease() is None), key=lambda each: each.rank)
    while idle and idle[-1].rank and sum(each.rank for each in places) + rank > MAX_POOL_RANK:
        bank = _sized(bank, idle[-1], 0)
        idle.insert(0, idle.pop())
    if others and sum(each.rank for each in places) + rank > MAX_POOL_RANK:
        raise PoolExhausted(
            "Other people's merged adapters take the room; try again when somebody's text has ended."
        )
    if not idle:
        idle.append(PoolSlot(f"{RESERVED}made {len(places) + 1})"))
        places.append(idle[0])
    return _sized(bank, idle[0], rank), idle[0]


def _sized(bank: AdapterBank, place: PoolSlot, rank: int) -> AdapterBank:
    """With an idle place given another size, and nothing in it."""
    place.rank, place.sites, place.key, place.notes = rank, frozenset(bank.sites), None, {}
    return bank.reserve(place.name, rank)


def _leased(place: PoolSlot) -> SlotLease:
    lease = place.lease() or SlotLease(place.name, place.notes)
    place.lease = ref(lease)
    return lease


def _rank(adapter: Adapter) -> int:
    return max((factors.A.shape[0] for factors in adapter.values()), default=RANK_ALIGNMENT)

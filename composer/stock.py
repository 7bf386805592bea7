"""The shelf as it changes: adapters that come to stay, and what is made of them for as long as it is used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from threading import Lock
from weakref import ref

from composer.adapters.bank import Adapter, Bank
from composer.methods.merges import Merged
from composer.model.inject import GatedModel
from composer.shelf import Shelf
from composer.spec import AdapterSpec, ComposerError

# Adapters made for different people at once; each place taken costs everybody a little at every layer.
PLACES = 8
# Ranks of places are multiples of it, so that a place fits the next adapter too.
STEP = 8


class Full(ComposerError):
    """All places are in use; there will be one when somebody is done."""


class Lease:
    """Whoever holds it can count on the bank's column of this name to stay what it is. notes: on that."""

    def __init__(self, name: str, notes: Mapping[str, float]):
        self.name, self.notes = name, notes


@dataclass
class _Place:
    """A column for made adapters. key: what it holds; lease: who last had it, if anybody still does."""

    name: str
    rank: int
    sites: frozenset[str]
    key: Hashable = None
    notes: Mapping[str, float] = field(default_factory=dict)
    lease: Callable[[], Lease | None] = lambda: None


class Stock:
    """Holds the newest shelf. Thread-safe.

    Columns of the bank only ever come in as last ones, and a made adapter's is overwritten only when
    nobody holds its lease; so whoever has gates, and leases where they need them, can run under any newer
    shelf. changed: told after each change of the bank's shape.
    """

    def __init__(self, model: GatedModel, changed: Callable[[], None] = lambda: None):
        self.shelf = Shelf.of(model, Bank(), ())
        self._model, self._changed = model, changed
        self._places: list[_Place] = []
        self._changing, self._making = Lock(), Lock()

    def add(self, spec: AdapterSpec, factors: Adapter) -> None:
        """One more adapter to ask for. Raises ComposerError for a name that is taken."""
        with self._changing:
            bank = self.shelf.bank.add(spec.name, factors)
            self.shelf = Shelf.of(self._model, bank, (*self.shelf.adapters, spec))
        self._changed()

    def made(self, keys: Sequence[Hashable], make: Callable[[], Sequence[Merged]]) -> tuple[Lease, ...]:
        """Leases of the adapters with these keys, made if they are not in the bank any more.

        make: all of them, in the order of the keys; may take long. Raises Full while all places are in
        use.
        """
        if found := self._found(keys):
            return found
        with self._making:
            return self._found(keys) or self._put(dict(zip(keys, make(), strict=True)))

    def _found(self, keys: Sequence[Hashable]) -> tuple[Lease, ...]:
        with self._changing:
            places = {place.key: place for place in self._places}
            return tuple(map(_leased, map(places.get, keys))) if set(keys) <= set(places) else ()

    def _put(self, made: Mapping[Hashable, Merged]) -> tuple[Lease, ...]:
        with self._changing:
            # On copies, so that a house that is full half-way leaves everything as it was.
            bank, places, leases = self.shelf.bank, list(map(copy, self._places)), []
            for key, each in made.items():
                place = _free(places, each.adapter)
                if place is None:
                    place = _room(places, bank, each.adapter)
                    bank = bank.reserve(place.name, place.rank)
                bank = bank.fill(place.name, each.adapter)
                place.key, place.notes = key, each.notes
                leases.append(_leased(place))
            grown = len(places) > len(self._places)
            self._places, self.shelf = places, Shelf.of(self._model, bank, self.shelf.adapters)
        if grown:
            self._changed()
        return tuple(leases)


def _free(places: Sequence[_Place], adapter: Adapter) -> _Place | None:
    rank, sites = _rank(adapter), adapter.keys()
    fitting = (
        place for place in places if place.lease() is None and place.rank >= rank and sites <= place.sites
    )
    return min(fitting, key=lambda place: place.rank, default=None)


def _room(places: list[_Place], bank: Bank, adapter: Adapter) -> _Place:
    if len(places) >= PLACES:
        raise Full(f"{PLACES} merged adapters are in use; try again when somebody's text has ended.")
    rank = -(-_rank(adapter) // STEP) * STEP
    place = _Place(f"(made {len(places) + 1})", rank, frozenset(bank.sites))
    places.append(place)
    return place


def _leased(place: _Place) -> Lease:
    lease = place.lease() or Lease(place.name, place.notes)
    place.lease = ref(lease)
    return lease


def _rank(adapter: Adapter) -> int:
    return max((factors.A.shape[0] for factors in adapter.values()), default=STEP)

"""The bank of adapters as it changes: those of the catalog stay, merged ones stay while they are in use, and
those that visitors brought stay until they are removed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
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

# Summed rank of all slots while several compositions hold merged adapters; each rank costs every row a little
# at every layer. A single composition gets what it needs, which is about what its own adapters take.
MAX_POOL_RANK = 128
# Ranks of slots are multiples of it, so that a slot fits the next adapter too.
RANK_ALIGNMENT = 8


class PoolExhausted(ComposerError):
    """All slots for merged adapters are in use."""


class SlotLease:
    """While it is held, the bank's column of this name stays what it is."""

    def __init__(self, name: str, notes: Mapping[str, float]):
        self.name, self.notes = name, notes


@dataclass(frozen=True)
class MergeKey:
    """What a merged adapter is made of, and how."""

    adapters: tuple[str, ...]
    how: Hashable


@dataclass
class PoolSlot:
    """A column of the bank for merged adapters and for adapters that can be removed."""

    # The column's name in the bank.
    name: str
    # What fits. A slot of rank 0 costs nothing until it is given a rank.
    rank: int = 0
    sites: frozenset[str] = frozenset()
    # What it holds.
    key: MergeKey | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    # Kept for as long as it holds a loaded adapter, whose name it then has.
    own: SlotLease | None = None
    # The lease that was given last, while somebody holds it.
    lease: Callable[[], SlotLease | None] = lambda: None


class AdapterPool:
    """Holds the newest snapshot. Thread-safe.

    Columns of the bank are only ever appended, and a merged adapter's column is overwritten only when nobody
    holds its lease. Gates computed under an older snapshot therefore stay valid under any newer one.
    """

    def __init__(self, model: GatedModel):
        self.snapshot = AdapterSnapshot.of(model, AdapterBank(), ())
        self._model = model
        self._slots: list[PoolSlot] = []
        self._changing, self._making = Lock(), Lock()

    def add(self, spec: AdapterSpec, factors: Adapter, removable: bool = False) -> None:
        """Append a loaded adapter. Raises ComposerError for a name that is taken or cannot be one.

        removable: it takes a slot, a free one that fits if there is one, and `remove` frees it.
        """
        with self._changing:
            if fault := name_fault(spec.name, self.snapshot.names):
                raise ComposerError(fault)
            if removable:
                bank, self._slots = _placed(self.snapshot.bank, self._slots, spec.name, factors)
            else:
                bank = self.snapshot.bank.add(spec.name, factors)
            self.snapshot = self.snapshot.followed_by(self._model, bank, (*self.snapshot.adapters, spec))

    def remove(self, name: str) -> None:
        """Remove a removable adapter. Whoever holds it in a ResolvedComposition may go on using it.

        Raises ComposerError for any other name.
        """
        with self._changing:
            place = next(
                (place for place, slot in enumerate(self._slots) if slot.own and slot.name == name), None
            )
            if place is None:
                raise ComposerError(f"{name} cannot be removed: it is not one of those added later.")
            slot, bank = self._slots[place], self.snapshot.bank
            bank = bank.rename(name, _column_name(place))
            slot.name, slot.own = _column_name(place), None
            for each in self._slots:
                if each.key is not None and name in each.key.adapters:
                    each.key = None  # another adapter may get this name
            others = tuple(each for each in self.snapshot.adapters if each.name != name)
            self.snapshot = self.snapshot.followed_by(self._model, bank, others)

    def hold(self, names: Collection[str]) -> tuple[SlotLease, ...]:
        """Leases of the removable ones among these adapters."""
        with self._changing:
            return tuple(each.own for each in self._slots if each.own is not None and each.name in names)

    def made(self, keys: Sequence[MergeKey], make: Callable[[], Sequence[Merged]]) -> tuple[SlotLease, ...]:
        """Leases of the merged adapters with these keys, made if they are no longer in the bank.

        make: returns all of them, in the order of the keys; may take long. Raises PoolExhausted while other
        compositions use the slots.
        """
        if found := self._found(keys):
            return found
        with self._making:
            return self._found(keys) or self._put(dict(zip(keys, make(), strict=True)))

    def _found(self, keys: Sequence[MergeKey]) -> tuple[SlotLease, ...]:
        with self._changing:
            slots = {slot.key: slot for slot in self._slots}
            return tuple(_leased(slots[key]) for key in keys) if set(keys) <= set(slots) else ()

    def _put(self, made: Mapping[MergeKey, Merged]) -> tuple[SlotLease, ...]:
        with self._changing:
            # Works on copies, so a failure changes nothing.
            bank, slots = self.snapshot.bank, list(map(copy, self._slots))
            others, leases = any(slot.lease() and not slot.own for slot in slots), []
            for key, each in made.items():
                slot = _free(slots, each.adapter)
                if slot is None:
                    bank, slot = _allocate(bank, slots, each.adapter, others)
                bank = bank.write_slot(slot.name, each.adapter)
                slot.key, slot.notes = key, each.notes
                leases.append(_leased(slot))
            self._slots = slots
            self.snapshot = self.snapshot.followed_by(self._model, bank, self.snapshot.adapters)
        return tuple(leases)


def _free(slots: Sequence[PoolSlot], adapter: Adapter) -> PoolSlot | None:
    """The smallest slot without a lease that the adapter fits; None if there is none."""
    rank, sites = _rank(adapter), adapter.keys()
    free_slots = (
        slot for slot in slots if slot.lease() is None and slot.rank >= rank and sites <= slot.sites
    )
    return min(free_slots, key=lambda slot: slot.rank, default=None)


def _allocate(
    bank: AdapterBank, slots: list[PoolSlot], adapter: Adapter, others: bool
) -> tuple[AdapterBank, PoolSlot]:
    """A slot of the adapter's size. Idle slots lose their rank where the pool is full.

    others: whether other compositions hold leases. Raises PoolExhausted where they hold too much of the pool.
    """
    rank = -(-_rank(adapter) // RANK_ALIGNMENT) * RANK_ALIGNMENT
    idle = sorted((each for each in slots if each.lease() is None), key=lambda each: each.rank)
    while idle and idle[-1].rank and _merged_rank(slots) + rank > MAX_POOL_RANK:
        bank = _resized(bank, idle[-1], 0)
        idle.insert(0, idle.pop())
    if others and _merged_rank(slots) + rank > MAX_POOL_RANK:
        raise PoolExhausted("All slots for merged adapters are in use. Try again when a text is finished.")
    slot = idle[0] if idle else _appended(slots)
    return _resized(bank, slot, rank), slot


def _placed(
    bank: AdapterBank, slots: Sequence[PoolSlot], name: str, adapter: Adapter
) -> tuple[AdapterBank, list[PoolSlot]]:
    """The bank and the slots with a loaded adapter in one of them. Its budget is the caller's concern."""
    slots = list(map(copy, slots))
    # Not one with more sites: a method may ask which sites an adapter has.
    slot = _free([each for each in slots if each.sites == adapter.keys()], adapter)
    if slot is None:
        idle = (each for each in slots if each.lease() is None)
        slot = min(idle, key=lambda each: each.rank, default=None) or _appended(slots)
        rank = -(-_rank(adapter) // RANK_ALIGNMENT) * RANK_ALIGNMENT
        bank = _resized(bank, slot, rank, adapter)
    bank = bank.write_slot(slot.name, adapter).rename(slot.name, name)
    slot.name, slot.key, slot.notes = name, None, {}
    slot.own = _leased(slot)
    return bank, slots


def _appended(slots: list[PoolSlot]) -> PoolSlot:
    slots.append(PoolSlot(_column_name(len(slots))))
    return slots[-1]


def _column_name(place: int) -> str:
    """The column of a slot that holds no loaded adapter. place: the slot's in the list, which only grows."""
    return f"{RESERVED}made {place + 1})"


def _merged_rank(slots: Sequence[PoolSlot]) -> int:
    return sum(each.rank for each in slots if each.own is None)


def _resized(bank: AdapterBank, slot: PoolSlot, rank: int, like: Adapter | None = None) -> AdapterBank:
    """The bank with an idle slot of another rank, and nothing in it. like: see AdapterBank.allocate_slot."""
    slot.rank, slot.sites = rank, frozenset(bank.sites if like is None else like)
    slot.key, slot.notes = None, {}
    return bank.allocate_slot(slot.name, rank, like)


def _leased(slot: PoolSlot) -> SlotLease:
    lease = slot.lease() or SlotLease(slot.name, slot.notes)
    slot.lease = ref(lease)
    return lease


def _rank(adapter: Adapter) -> int:
    return max((factors.A.shape[0] for factors in adapter.values()), default=RANK_ALIGNMENT)

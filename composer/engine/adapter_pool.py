"""The bank of adapters as it changes: loaded adapters stay, merged adapters stay while they are in use."""

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


@dataclass
class PoolSlot:
    """A column of the bank for merged adapters."""

    # The column's name in the bank.
    name: str
    # What fits. A slot of rank 0 costs nothing until it is given a rank.
    rank: int = 0
    sites: frozenset[str] = frozenset()
    # What it holds.
    key: Hashable = None
    notes: Mapping[str, float] = field(default_factory=dict)
    # The lease that was given last, while somebody holds it.
    lease: Callable[[], SlotLease | None] = lambda: None


class AdapterPool:
    """Holds the newest snapshot. Thread-safe.

    Columns of the bank are only ever appended, and a merged adapter's column is overwritten only when nobody
    holds its lease. Gates computed under an older snapshot therefore stay valid under any newer one.

    changed: called after each change of the bank's shape.
    """

    def __init__(self, model: GatedModel, changed: Callable[[], None] = lambda: None):
        self.snapshot = AdapterSnapshot.of(model, AdapterBank(), ())
        self._model, self._changed = model, changed
        self._slots: list[PoolSlot] = []
        self._changing, self._making = Lock(), Lock()

    def add(self, spec: AdapterSpec, factors: Adapter) -> None:
        """Append a loaded adapter. Raises ComposerError for a name that is taken or cannot be one."""
        with self._changing:
            if fault := name_fault(spec.name, self.snapshot.names):
                raise ComposerError(fault)
            bank = self.snapshot.bank.add(spec.name, factors)
            self.snapshot = AdapterSnapshot.of(self._model, bank, (*self.snapshot.adapters, spec))
        self._changed()

    def made(self, keys: Sequence[Hashable], make: Callable[[], Sequence[Merged]]) -> tuple[SlotLease, ...]:
        """Leases of the merged adapters with these keys, made if they are no longer in the bank.

        make: returns all of them, in the order of the keys; may take long. Raises PoolExhausted while other
        compositions use the slots.
        """
        if found := self._found(keys):
            return found
        with self._making:
            return self._found(keys) or self._put(dict(zip(keys, make(), strict=True)))

    def _found(self, keys: Sequence[Hashable]) -> tuple[SlotLease, ...]:
        with self._changing:
            slots = {slot.key: slot for slot in self._slots}
            return tuple(_leased(slots[key]) for key in keys) if set(keys) <= set(slots) else ()

    def _put(self, made: Mapping[Hashable, Merged]) -> tuple[SlotLease, ...]:
        with self._changing:
            # Works on copies, so a failure changes nothing.
            bank, slots = self.snapshot.bank, list(map(copy, self._slots))
            others, leases = any(slot.lease() for slot in slots), []
            for key, each in made.items():
                slot = _free(slots, each.adapter)
                if slot is None:
                    bank, slot = _allocate(bank, slots, each.adapter, others)
                bank = bank.write_slot(slot.name, each.adapter)
                slot.key, slot.notes = key, each.notes
                leases.append(_leased(slot))
            before, after = [[(each.rank, each.sites) for each in own] for own in (self._slots, slots)]
            self._slots = slots
            self.snapshot = AdapterSnapshot.of(self._model, bank, self.snapshot.adapters)
        if before != after:
            self._changed()
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
    while idle and idle[-1].rank and sum(each.rank for each in slots) + rank > MAX_POOL_RANK:
        bank = _resized(bank, idle[-1], 0)
        idle.insert(0, idle.pop())
    if others and sum(each.rank for each in slots) + rank > MAX_POOL_RANK:
        raise PoolExhausted("All slots for merged adapters are in use. Try again when a text is finished.")
    if not idle:
        idle.append(PoolSlot(f"{RESERVED}made {len(slots) + 1})"))
        slots.append(idle[0])
    return _resized(bank, idle[0], rank), idle[0]


def _resized(bank: AdapterBank, slot: PoolSlot, rank: int) -> AdapterBank:
    """The bank with an idle slot of another rank, and nothing in it."""
    slot.rank, slot.sites, slot.key, slot.notes = rank, frozenset(bank.sites), None, {}
    return bank.allocate_slot(slot.name, rank)


def _leased(slot: PoolSlot) -> SlotLease:
    lease = slot.lease() or SlotLease(slot.name, slot.notes)
    slot.lease = ref(lease)
    return lease


def _rank(adapter: Adapter) -> int:
    return max((factors.A.shape[0] for factors in adapter.values()), default=RANK_ALIGNMENT)

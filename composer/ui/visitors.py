"""What belongs to a visitor alone: the adapters that they brought, each with a slider of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

from composer.core.errors import ComposerError
from composer.engine.added_adapters import AddedAdapter, AddedAdapters
from composer.ui.components.weight_sliders import SPARE_COLORS
from composer.ui.runners.budgets import Usage

# Addresses of programs whose use is remembered.
ADDRESSES = 1000


@dataclass(frozen=True)
class Own:
    """A visitor's adapter, and which of the spare sliders is its own."""

    slot: int
    adapter: AddedAdapter

    @property
    def name(self) -> str:
        return self.adapter.name

    @property
    def shown(self) -> dict[str, str]:
        """Its entry in the legend."""
        color = SPARE_COLORS[self.slot % len(SPARE_COLORS)]
        return {"name": self.name, "label": self.adapter.label, "color": color}


@dataclass(frozen=True)
class Budget:
    """What one visitor may bring: so many adapters, and so many bytes of memory."""

    adapters: int
    memory: float


@dataclass
class Visitor:
    """The state of one visitor's page. A visitor is known by it alone."""

    own: tuple[Own, ...] = ()
    usage: Usage = field(default_factory=Usage)

    def at(self, slot: int) -> Own | None:
        """What the slider has; None for one that is free."""
        return next((each for each in self.own if each.slot == slot), None)

    def names(self, slots: int) -> list[str | None]:
        """The adapter's name of each of so many spare sliders."""
        found = [self.at(slot) for slot in range(slots)]
        return [None if own is None else own.name for own in found]

    def using(self, names: Sequence[str]) -> tuple[Own, ...]:
        """The visitor's own among these adapters."""
        return tuple(each for each in self.own if each.name in names)

    def check_room(self, budget: Budget, memory: int = 0) -> None:
        """Raise ComposerError where one more adapter of so many bytes is too much."""
        if budget.adapters == 0:
            raise ComposerError("No adapter can be added here; use those of the catalog.")
        if len(self.own) >= budget.adapters:
            raise ComposerError(
                f"You have {budget.adapters} adapters, which is all there is room for; remove one first."
            )
        if sum(each.adapter.memory for each in self.own) + memory > budget.memory:
            raise ComposerError(
                f"This adapter takes {memory / 1e6:,.0f} MB, and yours together may take "
                f"{budget.memory / 1e6:,.0f} MB; remove one first, or choose one of a lower rank."
            )

    def add(self, adapter: AddedAdapter, slots: int) -> Own:
        """Give the adapter the first free slider."""
        free = next(slot for slot in range(slots) if self.at(slot) is None)
        own = Own(free, adapter)
        self.own = (*self.own, own)
        return own

    def remove(self, name: str) -> Own:
        """Take an adapter's slider away. Raises ComposerError for one that is not the visitor's."""
        found = next((each for each in self.own if each.name == name), None)
        if found is None:
            raise ComposerError("This adapter is not one of yours.")
        self.own = tuple(each for each in self.own if each is not found)
        return found

    def leave(self, added: AddedAdapters) -> None:
        """Give up all of them."""
        own, self.own = self.own, ()
        for each in own:
            added.release(each.adapter)


class Programs:
    """The adapters that programs use. A program has no page: it names an adapter by its Hub id in each call,
    and the ones that were named last are kept."""

    def __init__(self, added: Callable[[], AddedAdapters], budget: Budget, most: int = 8):
        """added: looked up at each use, so that a base that is unloaded is not kept."""
        self._added, self._budget, self._most = added, budget, most
        self._kept: OrderedDict[tuple[str, str | None], AddedAdapter] = OrderedDict()
        self._usages: OrderedDict[str, Usage] = OrderedDict()
        self._lock = Lock()

    def visitor(self, address: str, ids: Sequence[str] = ()) -> tuple[Visitor, dict[str, str]]:
        """A visitor who has these adapters ("owner/name" or "owner/name@revision"), and what each is called.

        address: where the program runs, by which its use is counted. Raises ComposerError for an adapter that
        cannot be had, and for more than a visitor may have.
        """
        visitor, called = Visitor(usage=self._usage(address)), dict[str, str]()
        for text in ids:
            visitor.check_room(self._budget)
            adapter = self._adapter(text)
            visitor.check_room(self._budget, adapter.memory)
            called[text] = visitor.add(adapter, self._budget.adapters).name
        return visitor, called

    def _usage(self, address: str) -> Usage:
        with self._lock:
            usage = self._usages.setdefault(address, Usage())
            self._usages.move_to_end(address)
            if len(self._usages) > ADDRESSES:
                self._usages.popitem(last=False)
            return usage

    def _adapter(self, text: str) -> AddedAdapter:
        repo, _, revision = text.partition("@")
        key = (repo, revision or None)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        report, adapter = self._added().add(*key)  # others need not wait for the download
        if adapter is None:
            raise ComposerError(report.reasons[0])
        with self._lock:
            # Another call may have brought it meanwhile; it needs one owner.
            gone = [adapter] if key in self._kept else []
            self._kept[key] = adapter
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                gone.append(self._kept.popitem(last=False)[1])
        for each in gone:
            self._added().release(each)
        return adapter

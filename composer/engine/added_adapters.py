"""Adapters that people bring while the engine runs, within a budget of memory and one of disk."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from composer.adapters.hub import Fetch, prune, read_card, valid_repo_id
from composer.adapters.model_card import ModelCard
from composer.core.catalog_types import FitReport
from composer.core.errors import ComposerError
from composer.core.names import name_fault, unique_name
from composer.engine.engine import Engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AddedAdapter:
    """An adapter that somebody brought. It keeps its name and its commit while it is not loaded."""

    name: str
    source: str
    # A commit; None for a folder.
    revision: str | None
    report: FitReport
    card: ModelCard = field(default_factory=ModelCard)
    # Bytes of its factors.
    memory: int = 0

    @property
    def label(self) -> str:
        """Its name without the owner's."""
        return self.name.rpartition("/")[2]


class AddedAdapters:
    """Knows who has which adapter. Thread-safe.

    The least recently used adapter leaves the memory, or the disk, when another one needs its room; `use`
    brings it back. One that nobody has any more leaves at once.

    memory, disk: bytes of all of them together. cache: the folder that they are downloaded to; None: the
    Hub's cache, of which nothing is deleted.
    """

    def __init__(self, engine: Engine, memory: float, disk: float, cache: Path | None = None):
        self._engine, self._memory, self._disk, self._cache = engine, memory, disk, cache
        # By source and commit, for as long as somebody has it.
        self._known: dict[tuple[str, str | None], AddedAdapter] = {}
        self._owners: Counter[str] = Counter()
        # Those that are loaded, the least recently used one first.
        self._loaded: dict[str, int] = {}
        self._changing = Lock()

    @property
    def bytes(self) -> int:
        """Of the factors of those that are loaded."""
        with self._changing:
            return sum(self._loaded.values())

    def check(self, source: str, revision: str | None = None) -> tuple[FitReport, ModelCard]:
        """Whether an adapter fits, and what its card says. Downloads no weights."""
        fetch = Fetch(self._cache)
        report = self._engine.check(source, revision, fetch)
        return report, read_card(source, report.revision or revision, fetch) if report.ok else ModelCard()

    def memory_of(self, report: FitReport) -> int:
        """Bytes that an adapter's factors take on this base."""
        sites, size = self._engine.model.sites, self._engine.base.dtype.itemsize
        return sum(rank * sum(sites[path]) * size for path, rank in report.ranks.items())

    def add(
        self, source: str, revision: str | None = None, fetch: Fetch = Fetch()
    ) -> tuple[FitReport, AddedAdapter | None]:
        """Load an adapter for one more owner, if it fits. fetch: only its `progress` counts.

        Never raises for what the source holds; the report says what is wrong.
        """
        fetch = replace(fetch, cache=self._cache)
        report = self._engine.download(source, revision, fetch)
        if not report.ok:
            return report, None
        key = (source, report.revision)
        card = read_card(source, report.revision, fetch)
        with self._changing:
            known = self._known.get(key)
            if known is None:
                name = self._name(source, report.revision)
                memory = self.memory_of(report)
                known = AddedAdapter(name, source, report.revision, replace(report, name=name), card, memory)
            try:
                self._load(known)
            except ComposerError as fault:
                return replace(report, ok=False, reasons=(str(fault),)), None
            self._known[key] = known
            self._owners[known.name] += 1
        if self._cache is not None:
            prune(self._cache, self._disk, keep={source})
        return known.report, known

    def adopt(self, adapter: AddedAdapter) -> AddedAdapter:
        """Know an adapter that another process of this server loaded for somebody, for one more owner. It is
        loaded when it is used, and may have another name here."""
        key = (adapter.source, adapter.revision)
        with self._changing:
            known = self._known.get(key)
            if known is None:
                name = self._name(*key)
                known = replace(adapter, name=name, report=replace(adapter.report, name=name))
                self._known[key] = known
            self._owners[known.name] += 1
            return known

    def use(self, adapters: Collection[AddedAdapter]) -> None:
        """Load those again that have left. Raises ComposerError where one cannot be had any more."""
        missing = [each for each in adapters if each.name not in self._engine.names]
        for each in missing:  # the download takes long, and others need not wait for it
            report = self._engine.download(each.source, each.revision, Fetch(self._cache))
            if not report.ok:
                raise ComposerError(
                    f"{each.name} had to make room and cannot be loaded again. {report.reasons[0]}"
                )
        names = {each.name for each in adapters}
        with self._changing:
            for each in adapters:
                self._load(each, keep=names)

    def release(self, adapter: AddedAdapter) -> None:
        """One owner less."""
        with self._changing:
            self._owners[adapter.name] -= 1
            if self._owners[adapter.name] > 0:
                return
            del self._owners[adapter.name]
            self._known.pop((adapter.source, adapter.revision), None)
            self._unload(adapter.name)

    # --- with the lock -------------------------------------------------------------------------

    def _load(self, adapter: AddedAdapter, keep: Collection[str] = ()) -> None:
        name = adapter.name
        if name in self._loaded:
            self._loaded[name] = self._loaded.pop(name)
            return
        self._make_room(adapter, keep)
        fetch = Fetch(self._cache)
        report = self._engine.add_adapter(adapter.source, adapter.revision, name, removable=True, fetch=fetch)
        if not report.ok:
            raise ComposerError(report.reasons[0])
        self._loaded[name] = adapter.memory

    def _make_room(self, adapter: AddedAdapter, keep: Collection[str]) -> None:
        if adapter.memory > self._memory:
            raise ComposerError(
                f"{adapter.label} takes {adapter.memory / 1e6:,.0f} MB of memory and all added adapters "
                f"together may take {self._memory / 1e6:,.0f} MB here; choose one of a lower rank."
            )
        for name in [each for each in self._loaded if each not in keep]:
            if sum(self._loaded.values()) + adapter.memory <= self._memory:
                return
            log.info("%s makes room for %s", name, adapter.name)
            self._unload(name)
        if sum(self._loaded.values()) + adapter.memory > self._memory:
            raise ComposerError("These adapters do not fit in the memory for added ones together; use fewer.")

    def _unload(self, name: str) -> None:
        if self._loaded.pop(name, None) is not None:
            self._engine.remove_adapter(name)

    def _name(self, source: str, revision: str | None) -> str:
        """The repository's id, with the commit where another commit of it is known; a folder's own name."""
        taken = {*self._engine.names, *(each.name for each in self._known.values())}
        if not valid_repo_id(source) or revision is None:
            return unique_name(source, taken)
        for name in (source, f"{source}@{revision[:7]}", f"{source}@{revision}"):
            if name_fault(name, taken) is None:
                return name
        return unique_name(source, taken)

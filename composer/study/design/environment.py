"""The study's engine: the targets' adapters, and the joint one, which is no slider and in no catalog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from composer.adapters.catalog import load_catalog
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.study.design.arms import COMBINED
from composer.study.design.targets import ATTRIBUTES


@dataclass(frozen=True)
class StudyEnvironment:
    """Where the study's engine comes from."""

    catalog: str
    # None: the catalog's default.
    base: str | None = None
    # The folder with the joint adapter; None: assets/adapters beside the catalog.
    modules: str | None = None
    # A folder of another training of all adapters, which replaces the catalog's; None: the catalog's.
    adapters: str | None = None

    def resolved(self) -> StudyEnvironment:
        """The same from wherever it is read on this machine."""
        places = (self.catalog, self.modules, self.adapters)
        catalog, modules, adapters = (path and str(Path(path).resolve()) for path in places)
        return StudyEnvironment(str(catalog), self.base, modules, adapters)

    def engine(self) -> Engine:
        """An engine with the targets' adapters, and COMBINED where it fits.

        It is not looked up in the folder where the catalog has it. Raises ComposerError for a folder
        that does not exist, and for one of another training that lacks a target's adapter.
        """
        groups = load_catalog(self.catalog).base(self.base).attributes
        studied = [name for group in groups if group.name in ATTRIBUTES for name in group.members]
        if self.adapters is not None:
            return self._retrained(self.adapters, studied)
        folder = Path(self.modules or Path(self.catalog).resolve().parent / "assets" / "adapters")
        if self.modules is not None and not folder.is_dir():
            raise ComposerError("--modules is not a folder; give the one that holds the study's modules.")
        engine = Engine.from_catalog(self.catalog, self.base, only={*studied, COMBINED})
        if COMBINED not in engine.names and (folder / COMBINED).is_dir():
            engine.add_adapter(str(folder / COMBINED), name=COMBINED)
        return engine

    def _retrained(self, adapters: str, studied: list[str]) -> Engine:
        """None of the catalog's own trainings is used, so that no text is of two trainings."""
        folder = Path(adapters)
        if missing := next((name for name in studied if not (folder / name).is_dir()), None):
            raise ComposerError(
                f"A folder of --module-seeds has no adapter called {missing}; give folders with all of "
                f"{', '.join(studied)}."
            )
        engine = Engine.from_catalog(self.catalog, self.base, only=())
        for name in (*studied, *([COMBINED] if (folder / COMBINED).is_dir() else ())):
            report = engine.add_adapter(str(folder / name), name=name)
            if not report.ok:
                raise ComposerError(f"An adapter of --module-seeds cannot be used. {report}")
        return engine

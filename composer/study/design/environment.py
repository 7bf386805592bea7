"""The study's own modules: trained on several labels at once, so of no use as a slider, and in no catalog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from composer.adapters.catalog import load_catalog
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.study.design.arms import JOINT_ADAPTERS
from composer.study.design.targets import ATTRIBUTES


@dataclass(frozen=True)
class StudyEnvironment:
    """Where the study's engine comes from."""

    catalog: str
    # None: the catalog's default.
    base: str | None = None
    # The folder of the study's own adapters; None: assets/adapters beside the catalog.
    modules: str | None = None

    def resolved(self) -> StudyEnvironment:
        """The same from wherever it is read on this machine."""
        catalog, modules = (path and str(Path(path).resolve()) for path in (self.catalog, self.modules))
        return StudyEnvironment(catalog, self.base, modules)

    def engine(self) -> Engine:
        """An engine with the targets' adapters, and those of the folders in JOINT_ADAPTERS that fit.

        A joint adapter that the catalog has is not looked up in the folder. Raises ComposerError for a folder
        that does not exist.
        """
        folder = Path(self.modules or Path(self.catalog).resolve().parent / "assets" / "adapters")
        if self.modules is not None and not folder.is_dir():
            raise ComposerError("--modules is not a folder; give the one that holds the study's modules.")
        groups = load_catalog(self.catalog).base(self.base).attributes
        studied = {name for group in groups if group.name in ATTRIBUTES for name in group.members}
        engine = Engine.from_catalog(self.catalog, self.base, only=studied | set(JOINT_ADAPTERS))
        for name in JOINT_ADAPTERS:
            if name not in engine.names and (folder / name).is_dir():
                engine.add_adapter(str(folder / name), name=name)
        return engine

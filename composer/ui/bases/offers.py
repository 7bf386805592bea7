"""Which bases of the catalog can be chosen here, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os.path import isabs, isdir

from composer.core.catalog_types import BaseSpec, Catalog, Notice
from composer.model.checkpoints.files import is_here


@dataclass(frozen=True)
class BaseOffer:
    """A base as the menu lists it."""

    spec: BaseSpec
    # Whether its weights are on this machine.
    here: bool
    # Why it cannot be chosen; empty where it can.
    reason: str = ""

    @property
    def label(self) -> str:
        return label_of(self.spec)

    @property
    def facts(self) -> str:
        """Quantization and adapters in a few words."""
        spec, many = self.spec, len(self.spec.adapters)
        adapters = f"{many} adapter" if many == 1 else f"{many} adapters"
        return " · ".join([*([] if spec.quantization == "none" else [spec.quantization]), adapters])

    @property
    def notice(self) -> Notice | None:
        return self.spec.notice


def label_of(spec: BaseSpec) -> str:
    """What the page calls a base."""
    return spec.label or spec.id


def offers(catalog: Catalog) -> Mapping[str, BaseOffer]:
    """Every base of the catalog by name. Looks at the disk and asks nobody on the network."""
    return {name: offer(spec) for name, spec in catalog.bases.items()}


def offer(spec: BaseSpec) -> BaseOffer:
    """A base, and whether it can be chosen: its weights are here, or somebody of this project has run it."""
    if _lacks_adapters(spec):
        return BaseOffer(spec, False, "The folders of its adapters are not there: nothing to mix.")
    if is_here(spec):
        return BaseOffer(spec, here=True)
    if spec.folder:
        return BaseOffer(spec, False, "The catalog's folder for it is not there.")
    if not spec.verified:
        why = "Nobody of this project has run it, and its weights are not here;"
        return BaseOffer(spec, False, f"{why} python app.py --base {spec.name} tries it.")
    return BaseOffer(spec, here=False)


def _lacks_adapters(spec: BaseSpec) -> bool:
    """Whether all adapters that the catalog has for it should be in folders, and none is."""
    sources = [adapter.source for adapter in spec.adapters]
    return bool(sources) and all(isabs(source) and not isdir(source) for source in sources)

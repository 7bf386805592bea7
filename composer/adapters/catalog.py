"""adapters.yaml as values of composer.core.catalog_types."""

from __future__ import annotations

from pathlib import Path

from composer.adapters.catalog_schema import (
    AdapterEntry,
    AttributeEntry,
    BaseEntry,
    CatalogEntry,
    WheelEntry,
)
from composer.adapters.strict_yaml import parse, read_yaml
from composer.core.assets import catalog_file
from composer.core.catalog_types import (
    AdapterSpec,
    Attribute,
    BaseSpec,
    Catalog,
    Example,
    Notice,
    Slider,
    Wheel,
    WheelPart,
)
from composer.core.composition import Composition


def load_catalog(path: str | Path) -> Catalog:
    """The catalog in a YAML file. Local sources become absolute paths, others are Hub repo ids.

    Raises ComposerError naming the key and the cure. Whether a local adapter exists is not checked here but
    when it is inspected, so that the others can be used.
    """
    file = catalog_file(path)
    folder = file.resolve().parent
    entry = parse(CatalogEntry, read_yaml(file), folder=folder)
    return Catalog(
        str(folder),
        entry.default,
        {name: _base(name, base) for name, base in entry.bases.items()},
        tuple(Example(**dict(each)) for each in entry.examples),
    )


def _base(name: str, entry: BaseEntry) -> BaseSpec:
    attributes = tuple(_attribute(name, group) for name, group in entry.attributes.items())
    group_of = {member: group.name for group in attributes for member in group.members}
    return BaseSpec(
        name=name,
        id=entry.id,
        revision=entry.revision,
        label=_label(name, entry),
        folder=entry.folder,
        wheel=_wheel(entry.wheel) if entry.wheel else None,
        notice=Notice(**entry.notice.model_dump()) if entry.notice else None,
        quantization=entry.quantization,
        dtype=entry.dtype,
        device_map=entry.device_map,
        prompting=entry.prompting,
        verified=entry.verified,
        adapters=tuple(_adapter(key, each, group_of.get(key)) for key, each in entry.adapters.items()),
        attributes=attributes,
        default_composition=entry.opening.composition() if entry.opening else Composition(),
    )


def _label(name: str, entry: BaseEntry | AttributeEntry | AdapterEntry) -> str:
    return name if entry.label is None else entry.label


def _wheel(entry: WheelEntry) -> Wheel:
    values = entry.model_dump()
    return Wheel(**{**values, "parts": tuple(WheelPart(**part) for part in values["parts"])})


def _attribute(name: str, entry: AttributeEntry) -> Attribute:
    poles = (entry.poles[0], entry.poles[1]) if entry.poles else None
    return Attribute(name, _label(name, entry), entry.adapters, poles)


def _adapter(name: str, entry: AdapterEntry, attribute: str | None) -> AdapterSpec:
    return AdapterSpec(
        name=name,
        source=entry.source,
        revision=entry.revision,
        label=_label(name, entry),
        description=entry.blurb,
        color=entry.color,
        attribute=attribute,
        slider=Slider(**entry.slider.model_dump()),
    )

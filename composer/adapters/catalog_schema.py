"""The schema of adapters.yaml. Field names are the file's keys; the comments at its top explain them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from composer.adapters.catalog_inheritance import resolve_likes
from composer.adapters.hub import COMMIT, valid_repo_id
from composer.adapters.strict_yaml import Strict, as_read, rule, text_length
from composer.core.catalog_types import AdapterSpec, Slider
from composer.core.composition import Composition, Sampling


def _not_null(value: Any) -> Any:
    if value is None:
        raise rule(f"must be a text{as_read(value)}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,39}", value):
        raise rule(f"needs a name of lower-case letters, digits, '.', '_' and '-'{as_read(value)}")
    return value


def _repo_id(value: str) -> str:
    if not valid_repo_id(value):
        raise rule("must be a Hub repository id: write it as owner/name")
    return value


def _commit(value: str) -> str:
    if not COMMIT.fullmatch(value):
        raise rule("must be a quoted commit of 40 hex digits, or null for the newest")
    return value


def _version(value: Any) -> Any:
    if not isinstance(value, str):
        raise rule(f"must be a quoted text such as '0.1.2'{as_read(value)}")
    if not re.fullmatch(r"[0-9][0-9A-Za-z.+!_-]{0,39}", value):
        raise rule("is no version: write one such as '0.1.2'")
    return value


def _package(value: str) -> str:
    # As PyPI has it: a name that begins with "-" would be an option of pip.
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?", value):
        raise rule("is no name of a PyPI package: correct it")
    return value


def _file_name(value: str) -> str:
    if "/" in value or "\\" in value or value in (".", ".."):
        raise rule("must be the name of a file, without folders")
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise rule("must be a quoted SHA-256 of 64 hex digits")
    return value


def _url(value: str) -> str:
    if not re.fullmatch(r"https://[!-~]{1,200}", value):
        raise rule("must be an address that begins with https://")
    return value


def _hex_color(value: str) -> str:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        raise rule("must be a quoted hex colour such as '#0072b2'")
    return value.lower()


def _weight(value: float) -> float:
    Composition({"slider": value})
    return value


def _some_bases(value: dict[str, BaseEntry]) -> dict[str, BaseEntry]:
    if not value:
        raise rule("is empty: describe at least one base")
    return value


def _path(value: str, info: ValidationInfo) -> str:
    """An absolute path. A relative one starts from the catalog's folder and may not leave it."""
    folder: Path = (info.context or {})["folder"]
    home = os.path.expanduser(value)
    try:
        path = (folder / home).resolve()
        if "\\" in value and not path.exists():  # as Windows writes it
            path = (folder / home.replace("\\", "/")).resolve()
    except (OSError, ValueError, RuntimeError):
        raise rule("is no path that can exist: correct it") from None
    if value.startswith("~") and home == value:
        raise rule("is the home folder of nobody here: write it in full")
    if not os.path.isabs(home) and not path.is_relative_to(folder):
        raise rule("leaves the catalog's folder: write it in full, or move the files inside")
    return str(path)


def _source(value: str, info: ValidationInfo) -> str:
    """A repository id as it is, a folder as an absolute path. A folder that exists goes first."""
    if not valid_repo_id(value):
        return _path(value, info)
    path = _path(value, info)
    return path if Path(path).is_dir() else value


def _adapter_names(least: int, most: int | None, cure: str) -> BeforeValidator:
    """Checks a list of different names."""

    def check(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        for name in value:
            if not isinstance(name, str):
                raise rule(cure + as_read(name))
        if len(value) < least or (most and len(value) > most) or len(set(value)) < len(value):
            raise rule(f"{cure}, each named once")
        return value

    return BeforeValidator(check)


def _weights(value: Any) -> Any:
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise rule(f"must be weights by the adapters' names{as_read(name)}")
        return dict(Composition(value).weights)
    return value


Name = Annotated[str, BeforeValidator(_name)]
Text = Annotated[str, text_length(200)]
Label = Annotated[str, text_length(200, blank=True)]
Commit = Annotated[Text, AfterValidator(_commit)]
SourcePath = Annotated[Text, AfterValidator(_path)]
Poles = Annotated[list[str], _adapter_names(2, 2, "must be a pair of adapters")]
Members = Annotated[list[str], _adapter_names(2, None, "must be a list of two or more adapters")]
Package = Annotated[Text, AfterValidator(_package)]
Version = Annotated[str, BeforeValidator(_version)]
FileName = Annotated[Text, AfterValidator(_file_name)]
Sha256 = Annotated[Text, AfterValidator(_sha256)]


class WheelPartEntry(Strict):
    package: Package
    version: Version
    file: FileName
    wheel_sha256: Sha256 | None = None


class WheelEntry(Strict):
    package: Package
    version: Version
    gguf: FileName
    sha256: Sha256 | None = None
    wheel_sha256: Sha256 | None = None
    parts: list[WheelPartEntry] = Field(default_factory=list)

    @model_validator(mode="after")
    def _joined_file_is_known(self) -> WheelEntry:
        if self.parts and self.sha256 is None:
            raise rule("is missing: add the SHA-256 of the joined file", "sha256")
        return self


class NoticeEntry(Strict):
    text: Annotated[str, text_length(500)]
    url: Annotated[Text, AfterValidator(_url)]


class OpeningEntry(Strict):
    """How the page opens. Keys that are left out have the Composition's defaults."""

    method: Annotated[str, text_length(40, blank=True)] = Composition().method
    strength: float = Composition().strength
    contrast: float = Composition().contrast
    blend: float = Composition().blend
    scale: Label = Composition().scale

    def composition(self) -> Composition:
        return Composition(**self.model_dump())

    @model_validator(mode="after")
    def _in_range(self) -> OpeningEntry:
        self.composition()
        return self


class SliderEntry(Strict):
    minimum: Annotated[float, AfterValidator(_weight)] = Slider.minimum
    maximum: Annotated[float, AfterValidator(_weight)] = Slider.maximum
    step: float = Slider.step
    default: float = Slider.default

    @model_validator(mode="after")
    def _ordered(self) -> SliderEntry:
        if not self.minimum < self.maximum:
            raise rule("must be below maximum", "minimum")
        if not 0 < self.step <= self.maximum - self.minimum:
            raise rule("must be above 0 and no wider than the slider", "step")
        if not self.minimum <= self.default <= self.maximum:
            raise rule("must lie between minimum and maximum", "default")
        return self


class AttributeEntry(Strict):
    label: Annotated[Label | None, BeforeValidator(_not_null)] = None
    poles: Poles | None = None
    members: (
        Annotated[list[str], _adapter_names(2, None, "must be a list of two or more adapters")] | None
    ) = None

    @model_validator(mode="after")
    def _one_of_both(self) -> AttributeEntry:
        if (self.poles is None) == (self.members is None):
            raise rule("needs either members, or poles for a pair that shares one slider")
        return self

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(self.members or self.poles or ())


class AdapterEntry(Strict):
    source: Annotated[str, text_length(500), AfterValidator(_source)]
    revision: Commit | None = None
    label: Annotated[Label | None, BeforeValidator(_not_null)] = None
    blurb: Label = ""
    color: Annotated[Label, AfterValidator(_hex_color)] = AdapterSpec.color
    slider: SliderEntry = SliderEntry()

    @model_validator(mode="after")
    def _revision_of_a_repository(self) -> AdapterEntry:
        if self.revision and os.path.isabs(self.source):
            raise rule("belongs to a Hub repository: remove it from a local adapter", "revision")
        return self


class BaseEntry(Strict):
    # What it takes from that base is here already: `resolve_likes` comes first.
    like: Text | None = None
    id: Annotated[Text, AfterValidator(_repo_id)]
    revision: Commit | None = None
    label: Annotated[Label | None, BeforeValidator(_not_null)] = None
    folder: SourcePath | None = None
    wheel: WheelEntry | None = None
    notice: NoticeEntry | None = None
    quantization: Literal["none", "nf4", "int8"] = "none"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device_map: Literal["single", "auto"] = "single"
    prompting: Literal["plain", "chat"] = "plain"
    verified: bool = False
    attributes: dict[Name, AttributeEntry] = Field(default_factory=dict)
    adapters: dict[Name, AdapterEntry] = Field(default_factory=dict)
    opening: OpeningEntry | None = None

    @model_validator(mode="after")
    def _adapters_in_one_attribute_each(self) -> BaseEntry:
        group_of: dict[str, str] = {}
        for group, attribute in self.attributes.items():
            for member in attribute.adapters:
                if member in group_of:
                    raise rule(
                        f"shares {member} with {group_of[member]}: keep it in one", f"attributes.{group}"
                    )
                if member not in self.adapters:
                    raise rule(
                        f"names {member[:40]}, which is no adapter of this base: add the adapter or remove "
                        "the name",
                        f"attributes.{group}",
                    )
                group_of[member] = group
        return self


class ExampleEntry(Strict):
    prompt: Annotated[str, text_length(500)]
    weights: Annotated[dict[str, float], BeforeValidator(_weights)]
    method: Annotated[str, text_length(40)] | None = None
    note: Label = ""
    label: Label = ""
    strength: float | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _makes_a_run(self) -> ExampleEntry:
        Composition(strength=1.0 if self.strength is None else self.strength)
        Sampling(seed=self.seed)
        return self


class CatalogEntry(Strict):
    default: Text
    bases: Annotated[dict[Name, BaseEntry], BeforeValidator(resolve_likes), AfterValidator(_some_bases)]
    examples: list[ExampleEntry] = Field(default_factory=list)

    @model_validator(mode="after")
    def _names_exist(self) -> CatalogEntry:
        if self.default not in self.bases:
            raise rule(f"is no base: choose one of {', '.join(self.bases)}", "default")
        for number, example in enumerate(self.examples, 1):
            if not any(set(example.weights) <= set(base.adapters) for base in self.bases.values()):
                raise rule(
                    "names adapters that no single base has: use one base's adapters",
                    f"examples.{number}.weights",
                )
        return self

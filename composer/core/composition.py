"""What a user asks for: which adapters how much, by which method, and how tokens are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from composer.core.errors import ComposerError, check_int, check_number

WEIGHT_RANGE = (-8.0, 8.0)


def _frozen(mapping: Mapping) -> Mapping:
    return MappingProxyType(dict(mapping))


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
            str(name): check_number(f"The weight of {str(name)[:60]}", weight, *WEIGHT_RANGE)
            for name, weight in dict(self.weights).items()
        }
        object.__setattr__(self, "weights", _frozen(checked))
        object.__setattr__(self, "strength", check_number("Strength", self.strength, 0, 4))
        object.__setattr__(self, "blend", check_number("Blend", self.blend, 0, 1))
        object.__setattr__(self, "contrast", check_number("Contrast", self.contrast, 0, 1))
        if len(tuple(self.bands)) != 3:
            raise ComposerError("Layer bands need three numbers: early, middle and late.")
        bands = tuple(
            check_number(f"The {name} band", value, -4, 4)
            for name, value in zip(("early", "middle", "late"), self.bands, strict=True)
        )
        object.__setattr__(self, "bands", bands)
        if self.scale not in ("unit", "paper"):
            raise ComposerError("Scale must be 'unit' or 'paper'.")
        if self.tokens not in ("last", "all"):
            raise ComposerError("Tokens must be 'last' or 'all'.")
        object.__setattr__(self, "live", check_int("Live", self.live, 0, 4096))
        if self.rank is not None:
            object.__setattr__(self, "rank", check_int("Rank", self.rank, 1, 4096))
        for name, low in (("density", 0.001), ("core", 0.0001), ("omega", 0)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_number(name.capitalize(), value, low, 1))

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
            object.__setattr__(self, name, check_int(name, getattr(self, name), low, high))
        for name, low, high in (
            ("temperature", 0, 5),
            ("top_p", 0.01, 1),
            ("repetition_penalty", 0.5, 5),
            ("time_limit", 0.01, 3600),
        ):
            object.__setattr__(self, name, check_number(name, getattr(self, name), low, high))

"""What a user asks for: which adapters how much, by which method, and how tokens are sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from composer.core.curves import Curve, Span, check_curves, check_schedule
from composer.core.errors import ComposerError, check_number, quote_name
from composer.core.parameters import check_parameters, parameter

WEIGHT_RANGE = (-8.0, 8.0)


@dataclass(frozen=True)
class Composition:
    """What to add to the base: a weight per adapter, and the method that turns weights into gates.

    Raises ComposerError when a value is not finite or out of range. The field names are part of stored
    studies' keys.
    """

    # Adapter name -> weight. Adapters that are not named have weight 0.
    weights: Mapping[str, float] = field(default_factory=dict)
    # A name in composer.methods.METHODS.
    method: str = "sum"
    # For methods on the logits: what is added to the base's logits is multiplied.
    strength: float = parameter(
        1.0, "Overall strength", "multiplies every gate", low=0, high=4, subject="Strength"
    )
    # Multipliers of the early, middle and late third of the layers.
    bands: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blend: float = parameter(
        1.0,
        "Blend: plain sum … fusion weights",
        "fusions: 0 is the plain sum, 1 the fusion weights alone",
        low=0,
        high=1,
        subject="Blend",
    )
    scale: str = parameter(
        "unit",
        "Scale of the fusion weights",
        "fusions: unit (mean multiplier 1) or paper (alpha as published)",
        kind=str,
        choices={
            "unit": "mean 1 (adapters keep their strength)",
            "paper": "as published (shares of 1)",
        },
        subject="Scale",
    )
    contrast: float = parameter(
        1.0,
        "Contrast: how much of the opposites is subtracted",
        "contrasts: how much of the opposites to subtract",
        low=0,
        high=1,
        subject="Contrast",
    )
    norm: bool = parameter(
        True,
        "Final norm in the lens",
        "kl: lens without the final norm",
        kind=bool,
        advanced=True,
        option="--no-norm",
    )
    tokens: str = parameter(
        "last",
        "Fusion weights are computed at",
        "kl: at the prompt's last token, or the mean over all",
        kind=str,
        choices={"last": "the prompt's last token", "all": "all its tokens, as the mean"},
        advanced=True,
        option="--kl-tokens",
        subject="Tokens",
    )
    live: int = parameter(
        0,
        "Refresh every k tokens (0: once, at the start)",
        "fusions: recompute the gates after every K tokens (0: never); what was read before keeps its gates",
        kind=int,
        low=0,
        high=4096,
        advanced=True,
        page_high=32,
        step=1,
        info="What was read before keeps the gates it was read under.",
        metavar="K",
        subject="Live",
    )
    rank: int | None = parameter(
        None,
        "Merged rank",
        "merges: rank of the merged adapter at each site, 1 to 4096",
        kind=int,
        low=1,
        high=4096,
        optional=True,
        advanced=True,
        page_high=64,
        step=1,
        subject="Rank",
    )
    density: float | None = parameter(
        None,
        "Density kept",
        "merges: share of each change's entries that pruning and dropping keep",
        low=0.001,
        high=1,
        optional=True,
        advanced=True,
        subject="Density",
    )
    core: float | None = parameter(
        None,
        "Core share",
        "core: share of an adapter's entries that are its core region",
        low=0.0001,
        high=1,
        optional=True,
        advanced=True,
        page_high=0.5,
        step=0.005,
        subject="Core",
    )
    omega: float | None = parameter(
        None,
        "Pull of each next adapter",
        "core: how far each next adapter pulls the spherical merge, 0 to 1",
        low=0,
        high=1,
        optional=True,
        advanced=True,
        subject="Omega",
    )
    top_adapters: int | None = parameter(
        None,
        "Adapters that count at a token",
        "spectr: how many adapters have a share at each token and site (all)",
        kind=int,
        low=1,
        high=4096,
        optional=True,
        advanced=True,
        page_high=8,
        step=1,
        option="--top-adapters",
        subject="Top adapters",
    )
    floor: float | None = parameter(
        None,
        "Least count of a direction",
        "svc: what a direction counts at least for each adapter; below 1 some are amplified",
        low=0.01,
        high=1,
        optional=True,
        advanced=True,
        subject="Floor",
    )
    projection: float = parameter(
        1.0,
        "Projection of the weaker adapters (0: the sum)",
        "np-lora: how strongly the others are moved out of the kept adapter's directions",
        low=0,
        high=1000,
        page_high=10,
        step=0.5,
        subject="Projection",
    )
    accept: float = parameter(
        0.6,
        "Layers that must agree",
        "kl-or-sum: share of the layers in which one and the same adapter must lead",
        low=0,
        high=1,
        advanced=True,
        subject="Accept",
    )

    # Adapter name -> multipliers of its weight over the layers: anchors at evenly spaced depths, the first
    # layer's first, with straight lines between them. An adapter that is not named has 1 everywhere.
    curves: Mapping[str, Curve] = field(default_factory=dict)
    # Adapter name -> the first and the last new token, counted from 1, for which its weight counts; elsewhere
    # it is 0. None: to the end. What was read before a change keeps the weights it was read under.
    schedule: Mapping[str, Span] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked = {
            str(name): check_number(f"The weight of {quote_name(name)}", weight, *WEIGHT_RANGE)
            for name, weight in dict(self.weights).items()
        }
        object.__setattr__(self, "weights", MappingProxyType(checked))
        if len(tuple(self.bands)) != 3:
            raise ComposerError("Layer bands need three numbers: early, middle and late.")
        bands = tuple(
            check_number(f"The {name} band", value, -4, 4)
            for name, value in zip(("early", "middle", "late"), self.bands, strict=True)
        )
        object.__setattr__(self, "bands", bands)
        object.__setattr__(self, "curves", check_curves(self.curves))
        object.__setattr__(self, "schedule", check_schedule(self.schedule))
        check_parameters(self)

    def as_dict(self) -> dict[str, object]:
        """Every field as plain values, from which the same composition can be made."""
        whole = {each.name: getattr(self, each.name) for each in fields(self)}
        return whole | {
            "weights": dict(self.weights),
            "bands": list(self.bands),
            "curves": {name: list(anchors) for name, anchors in self.curves.items()},
            "schedule": {name: list(span) for name, span in self.schedule.items()},
        }


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled. Raises ComposerError for a value out of range."""

    max_new_tokens: int = parameter(60, "Max new tokens", "", kind=int, low=1, high=4096, step=1)
    temperature: float = parameter(
        1.0, "Temperature (0 = always the likeliest)", "0 is greedy", low=0, high=5, page_high=2
    )
    top_p: float = parameter(0.95, "Top-p (1 = off)", "1 switches it off", low=0.01, high=1, step=0.01)
    top_k: int = parameter(
        50, "Top-k (0 = off)", "0 switches it off", kind=int, low=0, high=100_000, page_high=200, step=1
    )
    repetition_penalty: float = parameter(
        1.0, "Repetition penalty", "1 is none", low=0.5, high=5, page_high=2
    )
    seed: int = parameter(0, "Seed (same seed, same text)", "", kind=int, low=0, high=2**32 - 1)
    # Wall-clock time for one generation.
    time_limit: float = parameter(120.0, "Time limit", "seconds", low=0.01, high=3600)

    def __post_init__(self) -> None:
        check_parameters(self)

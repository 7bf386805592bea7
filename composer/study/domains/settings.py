"""The ways of composing all adapters at once that the test compares: a method with its scale."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from composer.core.composition import Composition
from composer.methods import METHODS


@dataclass(frozen=True)
class Setting:
    """A method applied to every adapter at weight 1."""

    name: str
    label: str
    method: str
    # What its gates sum to, about, for each layer: the number of adapters, "N", or one adapter's, "1".
    total: str
    # Fields of Composition.
    parameters: Mapping[str, object] = field(default_factory=dict)
    # The overall strength is divided by the number of adapters.
    divided: bool = False
    # It needs adapters that exclude each other.
    grouped: bool = False

    @property
    def reads_query(self) -> bool:
        """Whether its gates depend on the query."""
        return bool(METHODS[self.method].prompt_stats)

    def composition(self, names: Sequence[str]) -> Composition:
        return Composition(
            weights=dict.fromkeys(names, 1.0),
            method=self.method,
            strength=1 / len(names) if self.divided else 1.0,
            **self.parameters,
        )


UNIT = MappingProxyType({"scale": "unit"})
PAPER = MappingProxyType({"scale": "paper"})
HALF = MappingProxyType({"contrast": 0.5})

# Another way to compose is one more entry here.
SETTINGS: Mapping[str, Setting] = {
    each.name: each
    for each in (
        Setting("sum", "Sum", "sum", "N"),
        Setting("average", "Average", "average", "1"),
        Setting("static", "Static", "static", "1"),
        Setting("balanced", "Norm-balanced", "balanced", "N"),
        Setting("balanced-mean", "Norm-balanced, averaged", "balanced", "1", divided=True),
        Setting("contrast", "Contrast (c = 0.5)", "contrast", "N", HALF, grouped=True),
        Setting(
            "contrast-mean", "Contrast (c = 0.5), averaged", "contrast", "1", HALF, divided=True, grouped=True
        ),
        Setting("kl-unit", "KL (unit scale)", "kl", "N", UNIT),
        Setting("kl-paper", "KL (paper scale)", "kl", "1", PAPER),
        Setting(
            "kl-published", "KL (paper scale, no final norm)", "kl", "1", {"scale": "paper", "norm": False}
        ),
        Setting("cosine-paper", "Cosine (paper scale)", "cosine", "1", PAPER),
        Setting("logo-paper", "LoGo (paper scale)", "logo", "1", PAPER),
        Setting("arrow-paper", "Arrow (paper scale)", "arrow", "1", PAPER),
    )
}
# Of these it is asked whether the query's own gates do better than others'.
TESTED = ("kl-paper", "kl-published", "kl-unit")


def fitting(names: Sequence[str], groups: Collection[Sequence[str]]) -> tuple[Setting, ...]:
    """The settings for these adapters. groups: those that exclude each other."""
    grouped = any(len(set(group) & set(names)) > 1 for group in groups)
    return tuple(each for each in SETTINGS.values() if grouped or not each.grouped)

"""What a merge is: a rule that turns several adapters into one. Its words are in composer.methods.merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from composer.adapters.bank import Adapter
from composer.core.composition import WEIGHT_RANGE
from composer.core.errors import check_int, check_number


@dataclass(frozen=True)
class Options:
    """What a merge may be told beside weights; None means the method's usual.

    rank: the merged adapter's rank at every site (less where a site is smaller). density: share of the
    entries that pruning and dropping leave, in (0, 1]. seed: of the entries DARE drops. core: share of
    the entries of a delta that are its core region. omega: how far each next adapter pulls the spherical
    merge towards itself, 0 to 1. floor: the least that SVC's count of a direction is, in (0, 1].
    projection: NP-LoRA's u, 0 or more. Raises ComposerError for values out of range.
    """

    rank: int | None = None
    density: float | None = None
    seed: int = 0
    core: float | None = None
    omega: float | None = None
    floor: float | None = None
    projection: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_int("seed", self.seed, 0, 2**32 - 1))
        if self.rank is not None:
            object.__setattr__(self, "rank", check_int("rank", self.rank, 1, 4096))
        for name, low in (("density", 0.001), ("core", 0.0001), ("omega", 0), ("floor", 0.01)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_number(name, getattr(self, name), low, 1))
        object.__setattr__(self, "projection", check_number("projection", self.projection, 0, 1000))


@dataclass(frozen=True)
class Merged:
    """An adapter made of others, and measurements of how."""

    # Factors of scaling 1 with weights and scalings folded in, in the inputs' dtype and on their device.
    adapter: Adapter
    # In [0, 1]. "kept": the share of the intended delta's squared Frobenius norm, over all sites, that the
    # cut to a low rank left. "jaccard": mean overlap of the core regions, over pairs and sites; "chance": the
    # overlap of unrelated regions.
    notes: Mapping[str, float] = field(default_factory=dict)
    # The intended delta's squared Frobenius norm over the sites that were cut: the weight of "kept".
    energy: float = 0.0


# Adapters, weights other than 0, options with the defaults filled in -> one adapter.
MergeRule = Callable[[Sequence[Adapter], Sequence[float], Options], Merged]


@dataclass(frozen=True)
class Merge:
    """A way to merge adapters."""

    # The key in MERGES, and the name of the method that explains it.
    name: str
    rule: MergeRule
    # The values of options that are None and that the rule needs.
    defaults: Mapping[str, float] = field(default_factory=dict)


# Adapters, the index of the one with the greatest weight, options -> each adapter calibrated.
CalibrationRule = Callable[[Sequence[Adapter], int, Options], list[Adapter]]


@dataclass(frozen=True)
class Calibration:
    """A way to change adapters before they are added: each stays an adapter of its own."""

    # The key in CALIBRATIONS.
    name: str
    rule: CalibrationRule
    # The fields of Options that it reads.
    parameters: tuple[str, ...] = ()
    # Whether it depends on which adapter has the greatest weight. On the weights' sizes none does.
    ranked: bool = False


def merge(
    method: Merge, adapters: Sequence[Adapter], weights: Sequence[float], options: Options | None = None
) -> Merged:
    """One adapter made of `adapters`, each times its weight; `options` as the method listens to them.

    An adapter at weight 0 takes no part: it is not counted in an average and has no vote. If none is
    left, the merged adapter is empty and leaves the base as it is. An adapter that lacks a site counts
    there as a zero delta. Raises ComposerError for weights out of range, adapters that do not fit each
    other, and results too large for the adapters' dtype.
    """
    checked = [check_number("The weight", weight, *WEIGHT_RANGE) for weight in weights]
    part = [(adapter, weight) for adapter, weight in zip(adapters, checked, strict=True) if weight]
    options = options or Options()
    missing: dict[str, Any] = {
        name: value for name, value in method.defaults.items() if getattr(options, name) is None
    }
    return method.rule([own for own, _ in part], [weight for _, weight in part], replace(options, **missing))

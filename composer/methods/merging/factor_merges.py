"""Merges made of the factors alone: no [d_out, d_in] delta is ever formed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch

from composer.adapters.bank import Adapter
from composer.core.errors import ComposerError
from composer.methods.merging.base import Merge, Merged, Options
from composer.methods.merging.factor_ops import MergedFactors, WeightedDelta, cut, each_site, stacked


def _added(parts: list[WeightedDelta], share: float = 1.0) -> MergedFactors:
    """(share sum B_i)(share sum A_i), each A_i and B_i times sqrt|weight scaling|: it has B_i A_j terms."""
    ranks = sorted({part.rank for part in parts})
    if len(ranks) > 1:
        raise ComposerError(
            f"Adding factors needs adapters of equal rank, and these have {', '.join(map(str, ranks))}; "
            "choose exact concatenation or SVD instead."
        )
    halves = [part.halves for part in parts]
    a, b = (reduce(torch.add, side) for side in zip(*halves, strict=True))
    return MergedFactors(share * a, share * b)


def _factor_average(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    return each_site(adapters, weights, lambda parts: _added(parts, 1 / len(adapters)))


def _delta_average(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    shares = [weight / len(weights) for weight in weights]
    if options.rank is None:
        return each_site(adapters, shares, stacked)
    return each_site(adapters, shares, lambda parts: cut(parts, options.rank))


def _linear(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    return each_site(adapters, weights, _added)


def _cat(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    return each_site(adapters, weights, stacked)


def _svd(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    return each_site(adapters, weights, lambda parts: cut(parts, options.rank))


FACTOR_AVERAGE = Merge("factor-average", _factor_average)
DELTA_AVERAGE = Merge("delta-average", _delta_average)
LINEAR = Merge("linear", _linear)
CAT = Merge("cat", _cat)
SVD = Merge("svd", _svd)

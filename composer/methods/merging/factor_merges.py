"""Merges made of the factors alone: no [d_out, d_in] delta is ever formed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch

from composer.adapters.bank import Adapter
from composer.core.errors import ComposerError
from composer.methods.merging.base import Merge, Merged, Options
from composer.methods.merging.factor_ops import MergedFactors, WeightedDelta, balanced, each_site, spectrum


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


def _stacked(parts: list[WeightedDelta]) -> MergedFactors:
    """sum of weight_i scaling_i B_i A_i exactly, the ranks side by side."""
    halves = [part.halves for part in parts]
    return MergedFactors(torch.cat([a for a, _ in halves]), torch.cat([b for _, b in halves], dim=1))


def _cut(parts: list[WeightedDelta], rank: int | None) -> MergedFactors:
    """The best approximation of the sum at `rank` (usual: the largest input's): two QRs and an R x R SVD."""
    whole = _stacked(parts)
    basis_out, b = torch.linalg.qr(whole.B)  # [d_out, k], [k, R]
    basis_in, a = torch.linalg.qr(whole.A.T)  # [d_in, m], [m, R]
    u, sigma, vh = spectrum(b @ a.T)  # of [k, m]
    largest = max(part.rank for part in parts)
    return balanced(basis_out @ u, sigma, vh @ basis_in.T, rank or largest, float(sigma.square().sum()))


def _factor_average(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    return each_site(adapters, weights, lambda parts: _added(parts, 1 / len(adapters)))


def _delta_average(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    shares = [weight / len(weights) for weight in weights]
    if options.rank is None:
        return each_site(adapters, shares, _stacked)
    return each_site(adapters, shares, lambda parts: _cut(parts, options.rank))


def _linear(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    return each_site(adapters, weights, _added)


def _cat(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    return each_site(adapters, weights, _stacked)


def _svd(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    return each_site(adapters, weights, lambda parts: _cut(parts, options.rank))


FACTOR_AVERAGE = Merge("factor-average", _factor_average)
DELTA_AVERAGE = Merge("delta-average", _delta_average)
LINEAR = Merge("linear", _linear)
CAT = Merge("cat", _cat)
SVD = Merge("svd", _svd)

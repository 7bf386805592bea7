"""Singular value calibration: directions that the sum counts more than once are divided by how often.

Source: SVC, ICML 2026, arXiv 2602.05536 (formula from its authors' released code, first version).

    U sigma V^T = D,  D = sum_i D_i,  D_i = w_i s_i B_i A_i
    a = u_k^T D,  a_i = u_k^T D_i,  count_i = <a, a_i> / |a_i|^2
    sigma_k <- sigma_k / mean_i max(floor, count_i)

A direction of one adapter alone counts once; one that N adapters share alike counts N times. Below `floor`
are directions in which others pull the other way. As in that code only the output side U is looked at. The
count has no bound: an adapter that is small in a direction, and agrees there with a large one, counts the
large one as an excess of its own. Its authors calibrate averages and sums scaled down, with a floor of 1/N;
here it is the plain sum, with their option's default, 1, under which no direction is amplified.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from composer.adapters.bank import Adapter
from composer.methods.merging.base import Merge, Merged, Options
from composer.methods.merging.factor_ops import (
    MergedFactors,
    WeightedDelta,
    balanced,
    decomposed,
    each_site,
    stacked,
)

# An adapter that has less than this share of a direction's length has nothing there.
NOTHING = 1e-6


def counts(
    parts: Sequence[WeightedDelta], u: torch.Tensor, sigma: torch.Tensor, vh: torch.Tensor
) -> torch.Tensor:
    """[N, K]: how often each part has the sum's direction k. u, sigma, vh: the SVD of the sum."""
    found = []
    for part in parts:
        left = u.T @ part.B  # [K, r]
        along = sigma * (left * (vh @ part.A.T)).sum(dim=1) * part.amount  # [K], <a, a_i>
        size = ((left @ (part.A @ part.A.T)) * left).sum(dim=1) * part.amount**2  # [K], |a_i|^2
        there = size > (NOTHING * sigma).square()
        found.append(torch.where(there, along / torch.where(there, size, 1), 0))
    return torch.stack(found)


def _svc(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    assert options.floor is not None
    floor = options.floor

    def site(parts: list[WeightedDelta]) -> MergedFactors:
        if len(parts) == 1:
            return stacked(parts)
        u, sigma, vh = decomposed(parts)
        divisor = counts(parts, u, sigma, vh).clamp_min(floor).mean(dim=0)  # [K]
        made = balanced(u, sigma / divisor, vh, len(sigma), 0.0)
        return MergedFactors(made.A, made.B)

    return each_site(adapters, weights, site)


SVC = Merge("svc", _svc, {"floor": 1.0})

"""Merges that look at single entries of the deltas: one dense delta per site, cut back to a low rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from composer.adapters.bank import Adapter
from composer.methods.merging.base import Merged, Options
from composer.methods.merging.factor_ops import MergedFactors, WeightedDelta, balanced, each_site, spectrum

OVERSAMPLED, ROUNDS = 8, 3


def through_deltas(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    options: Options,
    rule: Callable[[list[torch.Tensor]], torch.Tensor],
) -> Merged:
    """Apply `rule` at every site to the deltas weight * scaling * B A [d_out, d_in] of those that have it.

    The result is cut to options.rank; usual: the sum of the ranks there, what the exact sum would need.
    """

    def site(parts: list[WeightedDelta]) -> MergedFactors:
        rank = options.rank or sum(part.rank for part in parts)
        return truncated(rule([part.delta for part in parts]), rank)

    return each_site(adapters, weights, site)


def truncated(delta: torch.Tensor, rank: int) -> MergedFactors:
    """The delta at `rank`, by a randomised SVD (Halko, Martinsson & Tropp 2011, arXiv 0909.4061).

    torch.svd_lowrank does the same, but draws from the global generator, which other people's texts
    are drawn from.
    """
    width = min(rank + OVERSAMPLED, *delta.shape)
    draws = torch.Generator().manual_seed(0)
    probe = torch.randn(delta.shape[1], width, generator=draws).to(delta.device)  # [d_in, K]
    basis = torch.linalg.qr(delta @ probe).Q  # [d_out, K]
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(delta @ torch.linalg.qr(delta.T @ basis).Q).Q
    u, sigma, vh = spectrum(basis.T @ delta)  # of [K, d_in]
    return balanced(basis @ u, sigma, vh, rank, float(delta.square().sum()))


def largest(delta: torch.Tensor, share: float) -> torch.Tensor:
    """Bool mask of the `share` of entries, at least one, that are largest in size; no zero is among them.

    Entries of the same size as the smallest that stays also stay. PEFT's magnitude_based_pruning ranks
    all that it keeps, which takes three times as long at a low density and twenty times at a high one.
    """
    sizes = delta.abs()
    place = sizes.numel() - max(1, round(share * sizes.numel()))  # of the smallest that stays, from below
    if sizes.device.type == "cpu":  # numpy's selection is vectorised, torch's on a CPU is not
        value = float(np.partition(sizes.flatten().numpy(), place)[place])
        bound = torch.tensor(value, dtype=sizes.dtype)
    else:
        bound = sizes.flatten().kthvalue(place + 1).values
    return (sizes >= bound) & (sizes > 0)

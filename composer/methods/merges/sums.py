"""Merges made of the factors alone: no [d_out, d_in] delta is ever formed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from composer.adapters.bank import Adapter
from composer.methods.merges.rule import Merge, Merged, Options
from composer.methods.merges.site import Halves, Part, balanced, each_site, spectrum
from composer.spec import ComposerError


def _added(parts: list[Part], share: float = 1.0) -> Halves:
    """(share sum B_i)(share sum A_i), each A_i and B_i times sqrt|weight scaling|: it has B_i A_j terms."""
    ranks = sorted({part.rank for part in parts})
    if len(ranks) > 1:
        raise ComposerError(
            f"Adding factors needs adapters of equal rank, and these have {', '.join(map(str, ranks))}; "
            "choose exact concatenation or SVD instead."
        )
    halves = [part.halves for part in parts]
    return Halves(share * sum(a for a, _ in halves), share * sum(b for _, b in halves))


def _stacked(parts: list[Part]) -> Halves:
    """sum of weight_i scaling_i B_i A_i exactly, the ranks side by side."""
    halves = [part.halves for part in parts]
    return Halves(torch.cat([a for a, _ in halves]), torch.cat([b for _, b in halves], dim=1))


def _cut(parts: list[Part], rank: int | None) -> Halves:
    """The best approximation of the sum at `rank` (usual: the largest input's): two QRs and an R x R SVD."""
    whole = _stacked(parts)
    basis_out, b = torch.linalg.qr(whole.B)  # [d_out, k], [k, R]
    basis_in, a = torch.linalg.qr(whole.A.T)  # [d_in, m], [m, R]
    u, sigma, vh = spectrum(b @ a.T)  # of [k, m]
    usual = max(part.rank for part in parts)
    return balanced(basis_out @ u, sigma, vh @ basis_in.T, rank or usual, float(sigma.square().sum()))


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


FACTOR_AVERAGE = Merge(
    name="factor-average",
    label="Factor average (W-a)",
    help="Averages the A's and the B's apart, so that each B also meets the others' A: the weakest sum.",
    source="one reading of WeightsAverage in Lorandi & Belz 2026, arXiv 2605.12345 (formula inferred); where "
    "scalings or weights differ, their roots go into the factors as in PEFT's linear",
    rule=_factor_average,
)

DELTA_AVERAGE = Merge(
    name="delta-average",
    label="Delta average (W-b)",
    help="The mean of the changes: the sum's direction at 1/N of its strength.",
    source="the other reading of WeightsAverage in Lorandi & Belz 2026, arXiv 2605.12345 (formula inferred)",
    rule=_delta_average,
    dials=("rank",),
)

LINEAR = Merge(
    name="linear",
    label="PEFT linear",
    help="Adds the A's and the B's apart, as PEFT does: every adapter's B also meets every other's A.",
    source="Hugging Face PEFT, add_weighted_adapter, combination_type linear",
    rule=_linear,
)

CAT = Merge(
    name="cat",
    label="Exact concatenation",
    help="All adapters side by side as one: the sum of outputs, kept exactly.",
    source="Hugging Face PEFT, add_weighted_adapter, combination_type cat",
    rule=_cat,
)

SVD = Merge(
    name="svd",
    label="SVD to a rank",
    help="The sum, cut to the directions that carry most of it; at the summed rank it is the sum.",
    source="Hugging Face PEFT, add_weighted_adapter, combination_type svd (usual rank: the largest input's)",
    rule=_svd,
    dials=("rank",),
)

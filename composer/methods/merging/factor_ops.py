"""A merge is made site by site: what the adapters bring to one, and how a sum is cut to a low rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from composer.adapters.bank import Adapter, LoraFactors
from composer.core.errors import ComposerError
from composer.methods.merging.base import Merged


@dataclass(frozen=True)
class WeightedDelta:
    """What one adapter brings to a site: the delta `amount * B A`, amount being weight times scaling."""

    A: torch.Tensor  # [r, d_in] float32
    B: torch.Tensor  # [d_out, r] float32
    amount: float

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def delta(self) -> torch.Tensor:
        return self.B @ (self.amount * self.A)  # [d_out, d_in]

    @property
    def halves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B with the amount shared out evenly between them, its sign on A."""
        root = math.sqrt(abs(self.amount))
        return math.copysign(root, self.amount) * self.A, root * self.B


class MergedFactors(NamedTuple):
    """One site of a merged adapter, and what cutting it to its rank left of the intended delta.

    kept and whole are squared Frobenius norms; both 0 where nothing was cut.
    """

    A: torch.Tensor  # [r, d_in]
    B: torch.Tensor  # [d_out, r]
    kept: float = 0.0
    whole: float = 0.0


def each_site(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    rule: Callable[[list[WeightedDelta]], MergedFactors],
) -> Merged:
    """Apply `rule` to every site that any adapter has, with the parts of those that have it."""
    sites: dict[str, LoraFactors] = {}
    kept = whole = 0.0
    for path in dict.fromkeys(path for adapter in adapters for path in adapter):
        present = [(own[path], weight) for own, weight in zip(adapters, weights, strict=True) if path in own]
        like = present[0][0]
        if any(own.A.shape[1] != like.A.shape[1] or own.B.shape[0] != like.B.shape[0] for own, _ in present):
            raise ComposerError(
                "The adapters were made for models of different sizes; merge only adapters of one base."
            )
        made = rule(
            [WeightedDelta(own.A.float(), own.B.float(), weight * own.scaling) for own, weight in present]
        )
        kept, whole = kept + made.kept, whole + made.whole
        sites[path] = LoraFactors(stored(made.A, like.A), stored(made.B, like.B), 1.0)
    return Merged(sites, {"kept": min(1.0, kept / whole)} if whole else {}, whole)


def stored(made: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`made` in the dtype and on the device of `like`. Raises ComposerError where a number overflows it."""
    cast = made.to(like.device, like.dtype).contiguous()
    if not torch.isfinite(cast).all():
        raise _too_large()
    return cast


def spectrum(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The thin SVD U, sigma, V^T, sigma falling. Raises ComposerError for numbers that overflowed."""
    if matrix.shape[0] < matrix.shape[1]:
        v, sigma, uh = spectrum(matrix.T)
        return uh.T, sigma, v.T
    # Of a tall matrix a QR first: a driver for square ones does the rest in a tenth of the time.
    basis, square = torch.linalg.qr(matrix)
    if not torch.isfinite(square).all():
        raise _too_large()
    u, sigma, vh = torch.linalg.svd(square, full_matrices=False)
    return basis @ u, sigma, vh


def balanced(
    u: torch.Tensor, sigma: torch.Tensor, vh: torch.Tensor, rank: int, whole: float
) -> MergedFactors:
    """The first `rank` directions as factors, sqrt(sigma) on each side so that neither overflows first."""
    root = sigma[:rank].sqrt()
    return MergedFactors(
        root[:, None] * vh[:rank], u[:, :rank] * root, float(sigma[:rank].square().sum()), whole
    )


def stacked(parts: list[WeightedDelta]) -> MergedFactors:
    """sum of weight_i scaling_i B_i A_i exactly, the ranks side by side."""
    halves = [part.halves for part in parts]
    return MergedFactors(torch.cat([a for a, _ in halves]), torch.cat([b for _, b in halves], dim=1))


def decomposed(
    parts: list[WeightedDelta],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The SVD of the sum, [d_out, K], [K] and [K, d_in]: two QRs and one of a matrix of rank size."""
    whole = stacked(parts)
    basis_out, b = torch.linalg.qr(whole.B)  # [d_out, k], [k, R]
    basis_in, a = torch.linalg.qr(whole.A.T)  # [d_in, m], [m, R]
    u, sigma, vh = spectrum(b @ a.T)  # of [k, m]
    return basis_out @ u, sigma, vh @ basis_in.T


def cut(parts: list[WeightedDelta], rank: int | None) -> MergedFactors:
    """The best approximation of the sum at `rank` (usual: the largest input's)."""
    u, sigma, vh = decomposed(parts)
    largest = max(part.rank for part in parts)
    return balanced(u, sigma, vh, rank or largest, float(sigma.square().sum()))


def _too_large() -> ComposerError:
    return ComposerError("The merged weights are too large to be stored; lower the weights or leave one out.")

"""Pico, a calibration before any sum: directions that several adapters' B's share are damped.

Source: "Crowded in B-Space", 2026, arXiv 2604.16826 (formula from its authors' released code).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from composer.adapters.bank import Adapter, LoraFactors
from composer.methods.merging.base import Calibration
from composer.methods.merging.factor_ops import spectrum, stored


def calibrate(adapters: Sequence[Adapter]) -> list[Adapter]:
    """The adapters with B_i <- U diag(1 / (1 + (T - 1) c)) U^T B_i, each site back at its own Frobenius norm.

    [B_1 ... B_T] = U diag(sigma) V^T at a site, c_k = sigma_k^2 / sum sigma^2, T adapters that have the site;
    where T is 1 nothing changes (the paper's code skips sites that are not common to all). As in that code
    the scaling does not enter: c is of the B's as trained, and so a B trained larger, with an A
    to match, counts for more. Raises ComposerError for numbers that overflow.
    """
    calibrated: list[dict[str, LoraFactors]] = [dict(adapter) for adapter in adapters]
    for path in _shared(adapters):
        holders = [own for own in calibrated if path in own]
        directions, collision = _shared_directions([own[path] for own in holders])
        excess = 1 / (1 + (len(holders) - 1) * collision) - 1  # [K]
        for own in holders:
            own[path] = _damped(own[path], directions, excess)
    return list(calibrated)


def _shared(adapters: Sequence[Adapter]) -> list[str]:
    paths = dict.fromkeys(path for adapter in adapters for path in adapter)
    return [path for path in paths if sum(path in adapter for adapter in adapters) > 1]


def _shared_directions(factors: Sequence[LoraFactors]) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal directions [d_out, K] of all B's together and the collision c [K] of each, summing to 1."""
    directions, sigma, _ = spectrum(torch.cat([own.B.float() for own in factors], dim=1))
    energy = (sigma / sigma[0].clamp_min(torch.finfo(sigma.dtype).tiny)).square()
    return directions, energy / energy.sum().clamp_min(1)


def _damped(own: LoraFactors, directions: torch.Tensor, excess: torch.Tensor) -> LoraFactors:
    b = own.B.float()
    b = b + directions @ (excess[:, None] * (directions.T @ b))  # [d_out, r]
    damped = replace(own, B=b)
    if damped.norm > 0:
        damped = replace(own, B=b * (own.norm / damped.norm))
    return replace(own, B=stored(damped.B, own.B))


PICO = Calibration("pico", lambda adapters, kept, options: calibrate(adapters))

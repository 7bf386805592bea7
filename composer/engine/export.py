"""A composition as one plain LoRA adapter: gates and curves baked into its factors, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from composer.adapters.bank import Adapter, LoraFactors
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.engine.resolve import ResolvedComposition

MOST_RANK = 4096
# Stands where the gates do not depend on the prompt.
ANY = "The"


@dataclass(frozen=True)
class Baked:
    """The adapter, and what cutting it to a rank left of its squared Frobenius norm (1: all of it)."""

    adapter: Adapter
    kept: float = 1.0


class _Part(NamedTuple):
    """What one adapter adds at a site: amount * B A."""

    amount: float
    factors: LoraFactors


def bake(
    engine: Engine, composition: Composition, prompt: str | None = None, rank: int | None = None
) -> Baked:
    """The adapter that alone adds what the composition adds.

    prompt: for methods whose gates depend on it; they are those of this prompt. rank: cut every site to this
    rank by an SVD, as runtimes that want one rank do; None: the exact concatenation. Raises ComposerError for
    a composition that no single adapter can stand for.
    """
    resolved = engine.resolve(composition)
    _check(resolved, prompt)
    if rank is not None and not 1 <= rank <= MOST_RANK:
        raise ComposerError(f"The rank must be a whole number between 1 and {MOST_RANK}.")
    row = engine.row(0, prompt or ANY, resolved, Sampling())
    (gates,) = row.mixture.gates  # [L, N]
    sites = _parts(engine, gates)
    if rank is None:
        return Baked({path: _joined(parts) for path, parts in sites.items()})
    cut = {path: _cut(_joined(parts), rank) for path, parts in sites.items()}
    whole = sum(own.whole for own in cut.values())
    kept = sum(own.kept for own in cut.values())
    return Baked({path: own.factors for path, own in cut.items()}, kept / whole if whole else 1.0)


def _check(resolved: ResolvedComposition, prompt: str | None) -> None:
    method, composition = resolved.method, resolved.composition
    reasons: Mapping[str, bool] = {
        "combines the logits of several runs": method.on_logits,
        "weights the adapters anew for every token": resolved.router(int(resolved.columns.max(initial=0)) + 1)
        is not None,
        "computes its gates anew while it writes": resolved.refresh_every > 0,
        "has a schedule over tokens": bool(composition.schedule),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ComposerError(f"This mix ({method.label}) {reason}, which no single adapter can do.")
    if prompt is None and resolved.missing_stats(None):
        raise ComposerError(
            f"{method.label} reads the prompt; give one with --prompt, and its gates are kept."
        )


def _parts(engine: Engine, gates: np.ndarray) -> dict[str, list[_Part]]:
    """For each site what every adapter with a gate in its layer adds there."""
    bank, layer_of = engine.snapshot.bank, engine.model.layer_of
    found: dict[str, list[_Part]] = {}
    for index, name in enumerate(bank.names):
        if not gates[:, index].any():
            continue
        for path, factors in bank.adapter(name).items():
            gate = float(gates[layer_of[path], index])
            if gate and factors.A.shape[0]:
                found.setdefault(path, []).append(_Part(gate * factors.scaling, factors))
    return found


def _joined(parts: list[_Part]) -> LoraFactors:
    """The concatenation along the rank; the amounts go into B."""
    rows = torch.cat([part.factors.A.float() for part in parts])  # [R, d_in]
    columns = torch.cat([part.factors.B.float() * part.amount for part in parts], dim=1)  # [d_out, R]
    return LoraFactors(rows, columns, 1.0)


class _Cut(NamedTuple):
    """A site at its rank, and squared Frobenius norms of what was kept and of the whole."""

    factors: LoraFactors
    kept: float
    whole: float


def _cut(joined: LoraFactors, rank: int) -> _Cut:
    """The best approximation of B A of this rank, by QR of both factors and an SVD of the small core."""
    q_b, r_b = torch.linalg.qr(joined.B.double())  # [d_out, k], [k, R]
    q_a, r_a = torch.linalg.qr(joined.A.double().T)  # [d_in, k], [k, R]
    u, sigma, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    count = min(rank, len(sigma))
    root = sigma[:count].sqrt()
    b, a = (q_b @ u[:, :count]) * root, (q_a @ v[:count].T * root).T  # [d_out, r], [r, d_in]
    a, b = _padded(a, rank, 0), _padded(b, rank, 1)
    energy = sigma.square()
    factors = LoraFactors(a.float(), b.float(), 1.0)
    return _Cut(factors, float(energy[:count].sum()), float(energy.sum()))


def _padded(values: torch.Tensor, rank: int, dim: int) -> torch.Tensor:
    """With zeros up to the rank, so that all sites have the same."""
    shape = list(values.shape)
    shape[dim] = rank - shape[dim]
    return torch.cat([values, values.new_zeros(shape)], dim=dim)

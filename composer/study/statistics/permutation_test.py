"""Does KL's alpha follow the prompt? A permutation test over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TEST = (
    "Every prompt belongs to one adapter of its attribute (a prompt about a match to sports). Statistic: the "
    "mean over prompts of the alpha that the prompt gives its own adapter, less the mean of what the other "
    "prompts give that adapter. Null: alpha does not know whose prompt it is, so owners are shuffled among "
    "the attribute's prompts. p: share of shuffles, the true order counted with them, that reach the "
    "statistic (one-sided); above 0.95 an adapter gets less from its own prompts than from others."
)


@dataclass(frozen=True)
class PermutationResult:
    """The result of one permutation test."""

    # How much more alpha an adapter gets from its own prompts than from the others.
    gain: float
    # One-sided.
    p: float
    prompts: int

    @property
    def follows(self) -> bool:
        return self.p < 0.05

    @property
    def verdict(self) -> str:
        if self.follows:
            return "follows the prompt"
        return "turns away from it" if self.gain < 0 and self.p > 0.95 else "not shown"


def follow(alpha: np.ndarray, owners: Sequence[int], draws: int = 10_000, seed: int = 0) -> PermutationResult:
    """alpha: [P, N], a number per prompt and adapter. owners: [P], the adapter each prompt belongs to.

    Adapters without a prompt of their own, or that own all of them, are left out of the statistic. Raises
    ValueError if that leaves none.
    """
    owners = np.asarray(owners, dtype=np.int64)
    counts = np.bincount(owners, minlength=alpha.shape[1])  # [N]
    tested = np.flatnonzero((counts > 0) & (counts < len(owners)))
    if not len(tested):
        raise ValueError("two adapters with prompts of their own are needed")
    orders = _orders(owners, draws, seed)  # [1 + D, P]
    # Adapters are weighed by their prompts, so that the statistic is a mean over prompts.
    gains = sum(counts[each] * _gains(alpha[:, each], orders == each) for each in tested)  # [1 + D]
    return _verdict(gains / counts[tested].sum(), len(owners))


def follow_each(
    alpha: np.ndarray, owners: Sequence[int], draws: int = 10_000, seed: int = 0
) -> dict[int, PermutationResult]:
    """The same test for each adapter, its own prompts against all others: adapter -> PermutationResult."""
    owners = np.asarray(owners, dtype=np.int64)
    orders = _orders(owners, draws, seed)  # [1 + D, P]
    return {
        each: _verdict(_gains(alpha[:, each], orders == each), int((owners == each).sum()))
        for each in np.unique(owners).tolist()
        if not (owners == each).all()
    }


def _orders(owners: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """[1 + D, P]: the true owners, then shuffles."""
    random = np.random.default_rng(seed)
    return np.stack([owners, *(random.permutation(owners) for _ in range(draws))])


def _gains(column: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Mean of column [P] over an adapter's own prompts less that over the others, per row of own [D, P]."""
    column, size = column.astype(np.float64), own.sum(axis=1)  # [P], [D]
    inside = own @ column  # [D]
    return inside / size - (column.sum() - inside) / (own.shape[1] - size)


def _verdict(gains: np.ndarray, prompts: int) -> PermutationResult:
    # A shuffle that gives every prompt its own kind of owner must count as reaching, whatever the rounding.
    return PermutationResult(float(gains[0]), float(np.mean(gains >= gains[0] - 1e-12)), prompts)

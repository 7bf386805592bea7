"""A row's branches: the runs of the base that it takes, their gates, and how their logits combine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

import numpy as np

# Coefficients that cancel leave at most this much.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class LogitMixture:
    """The base is run K times for a row, once per branch, and the row's logits are sum_k mix_k l_k.

    Methods that do not work on the logits have one branch.
    """

    mix: np.ndarray  # [K], sums to 1
    gates: np.ndarray  # [K, L, N]

    @classmethod
    def one(cls, gates: np.ndarray) -> LogitMixture:
        """A single branch with gates [L, N]."""
        return cls(np.ones(1), gates[None])

    @classmethod
    def of(cls, mix: Sequence[float], gates: Sequence[np.ndarray]) -> LogitMixture:
        """As few branches as possible: equal gates are merged, coefficients of 0 are dropped."""
        shares: dict[bytes, float] = {}
        distinct: dict[bytes, np.ndarray] = {}
        for share, own in zip(mix, gates, strict=True):
            own = own + 0.0  # -0.0 becomes 0.0, which has other bytes
            key = own.tobytes()
            shares[key] = shares.get(key, 0.0) + float(share)
            distinct[key] = own
        kept = [key for key, share in shares.items() if abs(share) > ROUNDING]
        return cls(np.array([shares[key] for key in kept]), np.stack([distinct[key] for key in kept]))

    def __len__(self) -> int:
        return len(self.mix)

    @property
    def overall(self) -> np.ndarray:
        """[L, N]: the branches' gates, weighted by their coefficients."""
        return np.tensordot(self.mix, self.gates, axes=1).astype(self.gates.dtype)

    def together(self, shares: np.ndarray) -> np.ndarray:
        """The row's contributions [L, N] from its branches', [K, L, N], weighted by |mix|."""
        return shares[0] if len(self) == 1 else np.tensordot(np.abs(self.mix), shares, axes=1)


def rows_per_pass(rows: Iterable[LogitMixture], limit: int) -> int:
    """How many of the first rows have at most `limit` branches in all; at least one."""
    counts = accumulate(map(len, rows))
    return max(1, sum(1 for _ in takewhile(lambda count: count <= limit, counts)))

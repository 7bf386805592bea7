"""A row's voices: the gates of every run of the base that it takes, and how their logits become one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

import numpy as np

# Shares that should cancel leave this much at most.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class LogitMixture:
    """The base is run K times for a row, a voice each, and the row's logits are sum_k mix_k l_k.

    mix: [K], sums to 1, so that one voice is heard as it is. gates: [K, L, N]. All methods but those that
    work on the logits have one voice.
    """

    mix: np.ndarray
    gates: np.ndarray

    @classmethod
    def one(cls, gates: np.ndarray) -> LogitMixture:
        """The single voice of gates [L, N]."""
        return cls(np.ones(1), gates[None])

    @classmethod
    def of(cls, mix: Sequence[float], gates: Sequence[np.ndarray]) -> LogitMixture:
        """As few voices as say the same: those with equal gates are one, and those without a share leave."""
        shares: dict[bytes, float] = {}
        apart: dict[bytes, np.ndarray] = {}
        for share, own in zip(mix, gates, strict=True):
            own = own + 0.0  # no -0.0, whose bytes are others
            key = own.tobytes()
            shares[key] = shares.get(key, 0.0) + float(share)
            apart[key] = own
        heard = [key for key, share in shares.items() if abs(share) > ROUNDING]
        return cls(np.array([shares[key] for key in heard]), np.stack([apart[key] for key in heard]))

    def __len__(self) -> int:
        return len(self.mix)

    @property
    def overall(self) -> np.ndarray:
        """[L, N]: the gates, each voice's as far as it is heard."""
        return np.tensordot(self.mix, self.gates, axes=1).astype(self.gates.dtype)

    def together(self, shares: np.ndarray) -> np.ndarray:
        """Contributions of each voice, [K, L, N], as the row's, [L, N]: the louder a voice, the more."""
        return shares[0] if len(self) == 1 else np.tensordot(np.abs(self.mix), shares, axes=1)


def rows_per_pass(rows: Iterable[LogitMixture], limit: int) -> int:
    """How many of the first rows have no more than `limit` voices together; one at least."""
    counts = accumulate(map(len, rows))
    return max(1, sum(1 for _ in takewhile(lambda count: count <= limit, counts)))

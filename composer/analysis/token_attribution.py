"""Who chose this token: the adapter that raised its probability most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Rows of one batch differ by rounding; a rise below this many nats is none.
RAISED = 1e-4
NO_ADAPTER = -1


@dataclass(frozen=True)
class Attribution:
    """Log-probabilities in nats of a finished text's T tokens, all read in one teacher-forced way."""

    # base, composed: [T].
    base: np.ndarray
    # [n, T], each adapter alone with the gates it has in the composition.
    alone: np.ndarray
    composed: np.ndarray

    @property
    def raised(self) -> np.ndarray:
        """[n, T] nats by which each adapter alone raised the token over the base."""
        return self.alone - self.base

    @property
    def winner(self) -> np.ndarray:
        """[T] int: the adapter that raised the token most; NOBODY where none raised it."""
        if not len(self.alone):
            return np.full(len(self.base), NO_ADAPTER)
        return np.where(self.raised.max(axis=0) > RAISED, self.raised.argmax(axis=0), NO_ADAPTER)

"""Parts of a row's mixture: the lanes that take part, and the mixture with some of its gates."""

from __future__ import annotations

import numpy as np

from composer.engine.resolve import ResolvedComposition
from composer.model.logit_mixture import LogitMixture


def active_lanes(resolved: ResolvedComposition, gates: np.ndarray) -> np.ndarray:
    """The lanes with a weight, and those that have a gate without one (as in `contrast`).

    gates: [K, L, N].
    """
    return np.flatnonzero((resolved.weights != 0) | gates[:, :, resolved.columns].any(axis=(0, 1)))


def with_part(mixture: LogitMixture, part: np.ndarray) -> LogitMixture:
    """The mixture with a part of its gates, 0 or 1 each: [n] or [L, n]."""
    return LogitMixture.of(mixture.mix, mixture.gates * part.astype(np.float32))


def lanes_alone(mixture: LogitMixture, columns: np.ndarray) -> list[LogitMixture]:
    """The mixture with each of these columns alone, and last with none: the base."""
    keep = np.zeros((len(columns) + 1, mixture.gates.shape[2]))  # [n + 1, N]
    keep[np.arange(len(columns)), columns] = 1
    return [with_part(mixture, each) for each in keep]

"""Holm's correction for asking several questions of the same texts."""

from __future__ import annotations

from collections.abc import Mapping


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Each name's p, adjusted so that the chance of any false claim among them stays below the level.

    The k-th smallest of m is multiplied by m - k + 1, never below the one before it and never above 1.
    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p}

"""Where a sweep is best: the mildest of the weights that do about as well as the best and still read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from composer.evaluation.metrics import Interval

# The sweet spot reads at most so many times as unlikely as the mildest point: a module alone may cost twice
# the base's perplexity, and what composes two of them half as much again.
FLUENT = 3.0
FEW_TEXTS = 10
FEW = "So few texts are a hint, no more."


@dataclass(frozen=True)
class DoseRow:
    """What the texts of one point show so far."""

    weights: tuple[float, ...]
    texts: int
    # By adapter that somebody can decide on: the share of texts that have its attribute.
    right: Mapping[str, Interval | None]
    # The share that have all of them.
    together: Interval | None
    # Median, of the continuations under the base.
    perplexity: float | None
    # Mean share of word 4-grams that were there before.
    repetition: float | None


@dataclass(frozen=True)
class SweetSpot:
    """The point to choose, and the sentence that says why; None where there is none."""

    point: int | None
    sentence: str


def sweet_spot(
    rows: Sequence[DoseRow], swept: Sequence[str], targets: Sequence[str], called: Mapping[str, str]
) -> SweetSpot:
    """The mildest point whose share of texts with every attribute is not clearly below the highest, among
    those that still read fluently.

    Not clearly below: not under the lower end of the highest share's interval, as the one-standard-error rule
    takes the simplest of the models that do about as well (Breiman et al. 1984). The highest share itself is
    often a louder point's luck.
    swept: the adapters whose weights the rows have. targets: those that are decided on. called: their names.
    """
    if not targets:
        names = ", ".join(called[name] for name in swept)
        return SweetSpot(None, f"No judge decides on {names}, so only the reading is measured.")
    loudness = [sum(map(abs, row.weights)) for row in rows]
    mildest = min(range(len(rows)), key=loudness.__getitem__)
    measure = rows[mildest].perplexity
    judged = [point for point, row in enumerate(rows) if row.together and row.perplexity]
    if not judged or not measure:
        return SweetSpot(None, "No text has come yet that a sweet spot could be chosen by.")
    fluent = [point for point in judged if (rows[point].perplexity or 0) <= FLUENT * measure]

    def best_of(points: Sequence[int]) -> int:
        return max(points, key=lambda point: (_value(rows[point]), -loudness[point]))

    def at(point: int) -> str:
        return " and ".join(
            f"{called[name]} at {weight:g}" for name, weight in zip(swept, rows[point].weights, strict=True)
        )

    best = best_of(fluent)
    have = " and ".join(called[name] for name in targets)
    mild = " and ".join(f"{weight:g}" for weight in rows[mildest].weights)
    limit = f"keep the texts' perplexity within {FLUENT:g} times that at {mild} ({measure:.1f})"
    few = f" {FEW}" if rows[best].texts < FEW_TEXTS else ""
    highest = rows[best].together
    if highest is None or highest.value == 0:
        top = best_of(judged)
        rest = f"; {at(top)} has them in {_value(rows[top]):.0%} at {rows[top].perplexity:.1f}"
        none = f"No sweet spot: among the weights that {limit}, no text has {have}"
        return SweetSpot(None, f"{none}{rest if _value(rows[top]) else ''}.{few}")
    floor = highest.low or highest.value  # an interval down to 0 tells nothing apart
    spot = min(
        (point for point in fluent if _value(rows[point]) >= floor),
        key=lambda point: (loudness[point], -_value(rows[point])),
    )
    row = rows[spot]
    there = f"Sweet spot: {at(spot)}. There {_told(row.together)} of {row.texts} texts have {have}"
    if spot == best:
        return SweetSpot(spot, f"{there}, the most among the weights that {limit}.{few}")
    return SweetSpot(
        spot,
        f"{there} at a perplexity of {row.perplexity:.1f}. No milder weight is so near to the best, "
        f"{_told(highest)} with {at(best)}, among those that {limit}.{few}",
    )


def _value(row: DoseRow) -> float:
    return row.together.value if row.together else 0.0


def _told(share: Interval | None) -> str:
    return share.as_percent(decimals=0) if share else "none"

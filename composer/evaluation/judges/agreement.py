"""Several judges on one text: majority votes, and how far the judges agree.

A label wins with more than half of the votes; otherwise there is no label. (A published "majority" of this
field took the alphabetically largest label instead.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True)
class Agreement:
    """Two judges on the same texts."""

    one: str
    two: str
    # Share of texts that both give the same label.
    same: float
    # That share beyond what chance would give, as a share of what is left (Cohen 1960, "A coefficient of
    # agreement for nominal scales"); None where chance alone agrees always.
    kappa: float | None


def majority(verdicts: Sequence[str]) -> str | None:
    """The label of more than half of the judges; None if there is none. `verdicts` has at least one."""
    label, most = Counter(verdicts).most_common(1)[0]
    return label if 2 * most > len(verdicts) else None


def votes(verdicts: Mapping[str, Sequence[str]]) -> list[str | None]:
    """The majority on every text; `verdicts` has, by judge, a label per text."""
    return [majority(given) for given in zip(*verdicts.values(), strict=True)]


def agreements(verdicts: Mapping[str, Sequence[str]]) -> list[Agreement]:
    """Every pair of judges; `verdicts` has, by judge, a label per text, of at least one text."""
    return [_agreement(one, two, verdicts[one], verdicts[two]) for one, two in combinations(verdicts, 2)]


def _agreement(one: str, two: str, left: Sequence[str], right: Sequence[str]) -> Agreement:
    size = len(left)
    same = sum(a == b for a, b in zip(left, right, strict=True)) / size
    said, heard = Counter(left), Counter(right)
    # Counts are whole numbers, so that "always" is known exactly.
    chance = sum(said[label] * heard[label] for label in said)
    kappa = None if chance == size * size else (same - chance / size**2) / (1 - chance / size**2)
    return Agreement(one, two, same, kappa)

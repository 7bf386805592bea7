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
class Vote:
    """The judges' votes on one text."""

    # What more than half of the judges said; None if there is no such label.
    label: str | None
    # The labels with the most votes, sorted; several are a tie.
    leaders: tuple[str, ...]
    # Votes per label.
    counts: Mapping[str, int]

    @property
    def tied(self) -> bool:
        return len(self.leaders) > 1

    def __str__(self) -> str:
        if self.label is not None:
            return self.label
        return f"tie: {', '.join(self.leaders)}" if self.tied else f"no majority: {self.leaders[0]} leads"


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


def majority(verdicts: Sequence[str]) -> Vote:
    """The vote on one text. `verdicts` has each judge's label and at least one."""
    counts = Counter(verdicts)
    most = max(counts.values())
    leaders = tuple(sorted(label for label, votes in counts.items() if votes == most))
    return Vote(leaders[0] if 2 * most > len(verdicts) else None, leaders, dict(sorted(counts.items())))


def votes(verdicts: Mapping[str, Sequence[str]]) -> list[Vote]:
    """The vote on every text; `verdicts` has, by judge, a label per text."""
    return [majority(said) for said in zip(*verdicts.values(), strict=True)]


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

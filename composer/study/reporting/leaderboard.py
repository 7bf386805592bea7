"""Every way in one table: what it reaches at strength 1, and at the fluent strength chosen for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer.core.document import DataTable
from composer.evaluation.metrics import Interval
from composer.study.design.arms import Arm, label
from composer.study.design.claims import CHOSEN, ONE
from composer.study.design.tuning import REFERENCES
from composer.study.statistics.claims_summary import ArmRow, in_settings

RIVAL = "sum"


def standings(rows: Sequence[ArmRow], arms: Mapping[str, Arm]) -> DataTable:
    """A row per arm, the best first: fluent ones by their share as chosen, then the others by theirs at
    strength 1. Shares are in percent with their 95% interval, differences in points.

    References have nothing to choose: theirs is strength 1 where that is fluent.
    """
    head = (
        "way",
        "both right at 1",
        "perplexity",
        "both right, fluent",
        "perplexity",
        "at strength",
        f"minus {label(RIVAL, arms).lower()}, fluent",
    )
    pairs = [(own.get(ONE), fluent(own)) for own in in_settings(rows).values()]
    found = [(one, best) for one, best in pairs if one or best]
    return DataTable(head, tuple(_row(one, best, arms) for one, best in sorted(found, key=_rank)))


def fluent(own: Mapping[str, ArmRow]) -> ArmRow | None:
    """Of an arm's rows by setting the one to compare it by; None where none reads fluently."""
    best = own.get(CHOSEN)
    if best is None and (one := own.get(ONE)) and one.arm in REFERENCES:
        best = one
    return best if best and best.reads_fluently else None


def _rank(pair: tuple[ArmRow | None, ArmRow | None]) -> tuple[bool, float]:
    one, best = pair
    found = best or one
    return best is None, -found.control[0].value if found else 0.0


def _row(one: ArmRow | None, best: ArmRow | None, arms: Mapping[str, Arm]) -> tuple[str, ...]:
    name = next(row.arm for row in (one, best) if row)
    gap = best.minus_sum if best and best.setting == CHOSEN else None
    return label(name, arms), *_measured(one), *_measured(best), _setting(best), difference(gap)


def _setting(row: ArmRow | None) -> str:
    """The strength, and the constants that were chosen with it."""
    if row is None:
        return "-"
    constants = ", ".join(f"{name} {value}" for name, value in row.constants.items() if name != "scale")
    return f"{row.strength:g} ({constants})" if constants and row.setting == CHOSEN else f"{row.strength:g}"


def _measured(row: ArmRow | None) -> tuple[str, str]:
    if row is None:
        return "-", "-"
    spread = "-" if row.perplexity is None else f"{row.perplexity:.1f}"
    return row.control[0].as_percent(), spread


def difference(found: Interval | None) -> str:
    """In points, with its interval and whether that excludes zero."""
    if found is None:
        return "-"
    verdict = "excludes 0" if found.excludes_zero else "includes 0"
    return f"{found.as_points()} {verdict}"

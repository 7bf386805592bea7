"""Every way on one page: what it reaches at strength 1, and at the best strength that is fluent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer.core.document import DataTable
from composer.evaluation.metrics import Interval
from composer.study.design.arms import Arm
from composer.study.statistics.summary import BASELINES, ArmMetrics, ArmSummary

RIVAL = BASELINES[0]


def standings(lines: Sequence[ArmSummary], arms: Mapping[str, Arm]) -> DataTable:
    """A row per arm, the best first: fluent ones by their control at the best strength, then the others by
    theirs at strength 1. Shares are in percent with their 95% interval, differences in points.
    """
    head = (
        "way",
        "both right at 1",
        "perplexity",
        "both right, fluent",
        "perplexity",
        "at strength",
        f"minus {arms[RIVAL].label.lower()}, fluent" if RIVAL in arms else "minus the rival",
    )
    ranked = sorted((line for line in lines if line.one), key=_rank)
    return DataTable(head, tuple(_row(line, arms[line.arm].label) for line in ranked))


def _rank(line: ArmSummary) -> tuple[bool, float]:
    found = line.best if line.fluent else line.one
    return not line.fluent, -found.control.value if found else 0.0


def _row(line: ArmSummary, label: str) -> tuple[str, ...]:
    best = line.best if line.fluent else None
    strengths = " / ".join(f"{strength:g}" for strength in line.strengths) if best else "-"
    gap = difference(best.beside.get(RIVAL) if best else None)
    return label, *_measured(line.one), *_measured(best), strengths, gap


def _measured(found: ArmMetrics | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    spread = "-" if found.perplexity is None else f"{found.perplexity:.1f}"
    return f"{found.control.value:.1%} {_interval(found.control)}", spread


def difference(found: Interval | None) -> str:
    """In points, with its interval and whether that excludes zero."""
    if found is None:
        return "-"
    verdict = "excludes 0" if found.excludes_zero else "includes 0"
    return f"{100 * found.value:+.1f} {_interval(found, '+')} {verdict}"


def _interval(found: Interval, sign: str = "") -> str:
    return f"[{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"

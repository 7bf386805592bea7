"""The study's figures: values in, SVG out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer.study.design.arms import Arm, label
from composer.study.design.claims import ONE
from composer.study.reporting import interval_chart
from composer.study.reporting.charts import GREY, Panel, Series, svg
from composer.study.reporting.interval_chart import Column, Dot
from composer.study.reporting.leaderboard import RIVAL, fluent
from composer.study.statistics.alpha_profile import AlphaProfile
from composer.study.statistics.claims_summary import ArmRow, in_settings

# Arms that others are compared with: always in colour.
BASELINES = ("sum", "prompting")
COLORS = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#17becf",
    "#bcbd22",
    "#4c6ef5",
)


def fluency_figure(rows: Sequence[ArmRow], arms: Mapping[str, Arm]) -> str:
    """Both right against median perplexity: a ring at strength 1, joined with a dot as chosen."""
    leads = leading(rows, arms)
    background, front = [], []
    for name, own in in_settings(rows).items():
        shown = [(row, row.perplexity) for row in own.values() if row.perplexity is not None]
        points = tuple((spread, row.control[0].value) for row, spread in shown)
        rings = sum(row.setting == ONE for row, _ in shown)
        shown_as = label(name, arms)
        if name in leads:
            front.append(Series(shown_as, points, COLORS[leads.index(name) % len(COLORS)], rings=rings))
        else:
            background.append(Series(shown_as, points, GREY, named=False, rings=rings))
    return svg([Panel("", "median perplexity under the base", (*background, *front), log=True)])


def overview_figure(runs: Mapping[str, Sequence[ArmRow]], arms: Mapping[str, Arm]) -> str:
    """Both right of each arm on each run, by its name: a dot as chosen where that is fluent, else a ring at
    strength 1. Best mean first, fluent ones before others; the run's best in colour, dashed the sum."""
    found = {
        title: {name: _shown(own) for name, own in in_settings(rows).items()} for title, rows in runs.items()
    }
    by_arm: dict[str, list[tuple[ArmRow, bool]]] = {}
    for shown in found.values():
        for name, each in shown.items():
            by_arm.setdefault(name, []).append(each)

    def rank(name: str) -> tuple[bool, float]:
        own = by_arm[name]
        return not all(reads for _, reads in own), -sum(row.control[0].value for row, _ in own) / len(own)

    return interval_chart.svg(
        [label(name, arms) for name in sorted(by_arm, key=rank)],
        [_column(title, shown, arms) for title, shown in found.items()],
    )


def _shown(own: Mapping[str, ArmRow]) -> tuple[ArmRow, bool]:
    """The row to draw, and whether it reads fluently."""
    best = fluent(own)
    return (best, True) if best else (own.get(ONE) or next(iter(own.values())), False)


def _column(title: str, shown: Mapping[str, tuple[ArmRow, bool]], arms: Mapping[str, Arm]) -> Column:
    fluently = {name: _right(each) for name, each in shown.items() if each[1]}
    best = max(fluently, key=fluently.get, default="")
    dots = {
        label(name, arms): Dot(row.control[0], COLORS[0] if name == best else GREY, ring=not reads)
        for name, (row, reads) in shown.items()
    }
    return Column(title, dots, _right(shown[RIVAL]) if RIVAL in shown else None)


def _right(shown: tuple[ArmRow, bool]) -> float:
    return shown[0].control[0].value


def leading(rows: Sequence[ArmRow], arms: Mapping[str, Arm]) -> tuple[str, ...]:
    """The baselines, and of each family the arm that is right most often, fluent ones first."""
    best: dict[str, tuple[bool, float, str]] = {}
    for row in rows:
        family = arms[row.arm].family if row.arm in arms else row.arm
        found = (row.reads_fluently, row.control[0].value, row.arm)
        if family not in best or found[:2] > best[family][:2]:
            best[family] = found
    chosen = {name for _, _, name in best.values()} | set(BASELINES)
    return tuple(name for name in in_settings(rows) if name in chosen)


def pattern_figure(patterns: Sequence[AlphaProfile]) -> str:
    """Alpha per layer: solid on the study's prompts, dashed on the adapter's own."""
    return svg([_pattern(pattern) for pattern in patterns])


def _pattern(pattern: AlphaProfile) -> Panel:
    series = []
    for place, name in enumerate(pattern.names):
        color = COLORS[place % len(COLORS)]
        for values, dashed, note in ((pattern.alpha, False, ""), (pattern.own, True, ", own prompts")):
            points = tuple(
                (layer, float(share))
                for layer, share in enumerate(values[:, place], start=1)
                if share == share  # NaN where an adapter has no prompt of its own
            )
            series.append(Series(f"{name}{note}", points, color, dashed))
    return Panel(f"{pattern.attribute}: fusion weight", "layer", tuple(series))

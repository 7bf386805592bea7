"""The study's figures: values in, SVG out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer.study.design.arms import Arm
from composer.study.design.claims import ONE
from composer.study.reporting.charts import GREY, Panel, Series, svg
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
        label = arms[name].label if name in arms else name
        if name in leads:
            front.append(Series(label, points, COLORS[leads.index(name) % len(COLORS)], rings=rings))
        else:
            background.append(Series(label, points, GREY, named=False, rings=rings))
    return svg([Panel("", "median perplexity under the base", (*background, *front), log=True)])


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

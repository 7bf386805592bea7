"""Shares with their intervals as SVG text: a row for each name, a column for each place of measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from composer.evaluation.metrics import Interval
from composer.study.reporting.charts import GREY, RING, Axis, rule, sheet, text

NAMES, PLOT, GAP, ROW, TOP, BOTTOM, RADIUS = 230, 150, 58, 22, 36, 30, 4
TICKS = (0, 0.5, 1)


@dataclass(frozen=True)
class Dot:
    """A share, drawn as a dot, or as a ring."""

    share: Interval
    color: str = GREY
    ring: bool = False


@dataclass(frozen=True)
class Column:
    """One place. dots: by the name of their row. level: a dashed line; None without."""

    title: str
    dots: Mapping[str, Dot]
    level: float | None = None


def svg(names: Sequence[str], columns: Sequence[Column]) -> str:
    """Rows in the order of their names."""
    foot = TOP + ROW * len(names)
    parts = [text(NAMES - 10, _middle(row) + 4, name, "end") for row, name in enumerate(names)]
    for place, column in enumerate(columns):
        x = Axis(0, 1, NAMES + place * (PLOT + GAP), PLOT)
        parts += [text(x(0.5), TOP - 14, column.title, "middle")]
        for tick in TICKS:
            parts += [rule(x(tick), TOP, x(tick), foot), text(x(tick), foot + 17, f"{tick:.0%}", "middle")]
        if column.level is not None:
            parts.append(rule(x(column.level), TOP, x(column.level), foot, GREY, True))
        parts += [
            _dot(column.dots[name], x, _middle(row)) for row, name in enumerate(names) if name in column.dots
        ]
    return sheet(NAMES + len(columns) * (PLOT + GAP), foot + BOTTOM, "".join(parts))


def _middle(row: int) -> float:
    return TOP + ROW * (row + 0.5)


def _dot(dot: Dot, x: Axis, y: float) -> str:
    low, at, high = x(dot.share.low), x(dot.share.value), x(dot.share.high)
    # A ring is not struck through.
    parts = [
        rule(start, y, end, y, dot.color, width=2)
        for start, end in ((low, at - RADIUS), (at + RADIUS, high))
        if start < end
    ]
    fill = RING if dot.ring else f' fill="{dot.color}"'
    parts.append(f'<circle cx="{at}" cy="{y}" r="{RADIUS}" stroke="{dot.color}"{fill}/>\n')
    return "".join([*parts, text(x(1) + 38, y + 4, f"{dot.share.value:.0%}", "end")])

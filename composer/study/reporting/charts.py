"""Line charts of shares as SVG text: the same values make the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

# Readable on white and on black.
GREY = "#737985"
GRID = "rgba(115,121,133,0.25)"
# Perplexities to read off a logarithmic axis.
TICKS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100, 200, 500, 1000)
RING = ' fill="none" stroke-width="1.2"'
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
HEIGHT, PLOT, LEFT, TOP, BOTTOM, LEGEND, GAP = 420, 420, 56, 30, 50, 270, 34


@dataclass(frozen=True)
class Series:
    """A line with a dot at each point."""

    name: str
    # (x, share).
    points: tuple[tuple[float, float], ...]
    color: str
    dashed: bool = False
    # False for a line in the background, which the legend leaves out.
    named: bool = True
    # How many of the first points are rings.
    rings: int = 0


@dataclass(frozen=True)
class Panel:
    """One plot: shares from 0 up against x."""

    title: str
    x: str
    series: tuple[Series, ...]
    log: bool = False
    # A dashed line across, such as chance; None without.
    level: float | None = None


def svg(panels: Sequence[Panel]) -> str:
    """Panels side by side with one legend: names that several have stand there once."""
    width = len(panels) * (LEFT + PLOT + GAP) + LEGEND
    body = "".join(_panel(panel, LEFT + place * (LEFT + PLOT + GAP)) for place, panel in enumerate(panels))
    return sheet(width, HEIGHT, body + _legend(panels, width - LEGEND))


@dataclass(frozen=True)
class Axis:
    """Values to pixels, from `start` on over `length` pixels."""

    low: float
    high: float
    start: float
    length: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return round(self.start + self.length * (at - low) / ((high - low) or 1), 1)


def _panel(panel: Panel, left: int) -> str:
    bottom = HEIGHT - BOTTOM
    shown = [point for series in panel.series for point in series.points]
    if not shown:
        return text(left + PLOT / 2, HEIGHT / 2, "nothing measured", "middle")
    x = _x_axis([at for at, _ in shown], left, panel.log)
    top, step = _top(max(share for _, share in shown))
    y = Axis(0, top, bottom, TOP - bottom)
    lines = [text(left + PLOT / 2, TOP - 12, panel.title, "middle")] if panel.title else []
    for count in range(round(top / step) + 1):
        at = y(count * step)
        lines += [rule(left, at, left + PLOT, at), text(left - 8, at + 4, f"{count * step:.0%}", "end")]
    for tick in _x_ticks(x):
        lines += [
            rule(x(tick), TOP, x(tick), bottom),
            text(x(tick), bottom + 18, f"{tick:g}", "middle"),
        ]
    if panel.level is not None:
        lines.append(rule(left, y(panel.level), left + PLOT, y(panel.level), GREY, True))
    lines.append(text(left + PLOT / 2, HEIGHT - 10, panel.x, "middle"))
    return "".join([*lines, *(_series(each, x, y) for each in panel.series if each.points)])


def _x_axis(values: Sequence[float], left: float, log: bool) -> Axis:
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.1, high * 1.1, left, PLOT, True)
    return Axis(low - 0.5, high + 0.5, left, PLOT)


def _x_ticks(x: Axis) -> list[float]:
    if x.log:
        return [tick for tick in TICKS if x.low <= tick <= x.high]
    step = max(1, math.ceil((x.high - x.low) / 12))
    return [tick for tick in range(math.ceil(x.low), math.floor(x.high) + 1) if tick % step == 0]


def _top(highest: float) -> tuple[float, float]:
    """The end of an axis of shares, a whole number of steps, and the step."""
    step = next((step for step in STEPS if highest <= 6 * step), STEPS[-1])
    return max(1, math.ceil(round(highest / step, 6))) * step, step


def _series(series: Series, x: Axis, y: Axis) -> str:
    points = [(x(at), y(share)) for at, share in series.points]
    path = " ".join(f"{at},{share}" for at, share in points)
    width = 2.2 if series.named else 1
    dots = "".join(
        f'<circle cx="{at}" cy="{share}" r="{width + 0.8:.1f}"{RING if place < series.rings else ""}/>'
        for place, (at, share) in enumerate(points)
    )
    return (
        f'<g stroke="{series.color}" fill="{series.color}" opacity="{1 if series.named else 0.5}">'
        f"<title>{escape(series.name)}</title>"
        f'<polyline fill="none" stroke-width="{width}"{_dash(series.dashed)} points="{path}"/>{dots}</g>\n'
    )


def _legend(panels: Iterable[Panel], left: int) -> str:
    named = {each.name: each for panel in panels for each in panel.series if each.named and each.points}
    lines = []
    for place, each in enumerate(named.values()):
        at = TOP + 10 + 19 * place
        lines += [rule(left, at, left + 22, at, each.color, each.dashed, 2.5)]
        lines += [text(left + 29, at + 4, each.name)]
    return "".join(lines)


def sheet(width: float, height: float, body: str) -> str:
    """An SVG of that size, in pixels."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'font-family="ui-sans-serif, system-ui, sans-serif" font-size="12" fill="{GREY}">\n'
        f"{body}</svg>\n"
    )


def rule(
    x1: float, y1: float, x2: float, y2: float, color: str = GRID, dashed: bool = False, width: float = 1
) -> str:
    """A straight line."""
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{color}" stroke-width="{width}"'
        f"{_dash(dashed)}/>\n"
    )


def _dash(dashed: bool) -> str:
    return ' stroke-dasharray="5 4"' if dashed else ""


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Words with their foot at y; x is their start, middle or end."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>\n'

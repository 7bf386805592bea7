"""The study's figures: values in, plotly Figure out. Readable in light and in dark mode, like the page's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from composer.study.design.arms import Arm
from composer.study.statistics.alpha_profile import AlphaProfile
from composer.study.statistics.summary import BASELINES, ArmSummary, PairInterference

GREY = "#868c98"
GRID = "rgba(134,140,152,0.22)"
FAINT = "rgba(134,140,152,0.55)"
COLORS = qualitative.Dark24
LEADS = qualitative.D3
# Perplexities to read off a logarithmic axis.
TICKS = (5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000)


def draw(figure: go.Figure, first: bool) -> str:
    """The figure as HTML; the first of a page carries the library, so that nothing is fetched."""
    return figure.to_html(full_html=False, include_plotlyjs=first, config={"displaylogo": False})


def strength_figure(lines: Sequence[ArmSummary], arms: Mapping[str, Arm]) -> go.Figure:
    """Control against strength, a line per arm; the leading ones in colour, with their 95% interval."""
    figure, leads = go.Figure(), leading(lines, arms)
    for line in _leads_last(lines, leads):
        shares = [share for share, _ in line.sweep.values()]
        bars = {
            "array": [share.high - share.value for share in shares],
            "arrayminus": [share.value - share.low for share in shares],
            "thickness": 1,
            "width": 3,
        }
        figure.add_scatter(
            x=list(line.sweep),
            y=[share.value for share in shares],
            error_y=bars if line.arm in leads else None,
            name=arms[line.arm].label,
            mode="lines+markers",
            hovertemplate="%{y:.1%}",
            **_look(line.arm, leads),
        )
    style(figure, 480)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title="strength")
    figure.update_yaxes(title="control", tickformat=".0%", rangemode="tozero")
    return figure


def fluency_figure(lines: Sequence[ArmSummary], arms: Mapping[str, Arm]) -> go.Figure:
    """Control against median perplexity, a point per strength: up and to the left is better."""
    figure, leads = go.Figure(), leading(lines, arms)
    for line in _leads_last(lines, leads):
        points = [(s, share.value, spread) for s, (share, spread) in line.sweep.items() if spread is not None]
        figure.add_scatter(
            x=[spread for _, _, spread in points],
            y=[share for _, share, _ in points],
            customdata=[strength for strength, _, _ in points],
            hovertemplate="strength %{customdata:g}: %{y:.1%} at perplexity %{x:.1f}",
            name=arms[line.arm].label,
            mode="lines+markers",
            **_look(line.arm, leads),
        )
    style(figure, 480)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title="median perplexity under the base", type="log", tickvals=TICKS)
    figure.update_yaxes(title="control", tickformat=".0%", rangemode="tozero")
    return figure


def leading(lines: Sequence[ArmSummary], arms: Mapping[str, Arm]) -> tuple[str, ...]:
    """The arms drawn in colour: the baselines, and of each family the arm with most control, fluent ones
    first.
    """
    best: dict[str, ArmSummary] = {}
    for line in lines:
        family = arms[line.arm].family
        if family not in best or _standing(line) > _standing(best[family]):
            best[family] = line
    chosen = {line.arm for line in best.values()} | set(BASELINES)
    return tuple(line.arm for line in lines if line.arm in chosen)


def _standing(line: ArmSummary) -> tuple[bool, float]:
    found = line.best or line.one
    return line.fluent, found.control.value if found else 0.0


def _leads_last(lines: Sequence[ArmSummary], leads: Sequence[str]) -> list[ArmSummary]:
    """In the order in which they are drawn: the leading ones over the others."""
    return sorted(lines, key=lambda line: line.arm in leads)


def pattern_figure(patterns: Sequence[AlphaProfile]) -> go.Figure:
    """Alpha per layer: solid on the study's prompts, dotted on the adapter's own."""
    figure = make_subplots(rows=1, cols=len(patterns), subplot_titles=[each.attribute for each in patterns])
    for column, pattern in enumerate(patterns, start=1):
        layers = np.arange(1, len(pattern.alpha) + 1)
        for place, name in enumerate(pattern.names):
            for values, dash, note in ((pattern.alpha, "solid", ""), (pattern.own, "dot", ", own prompts")):
                figure.add_scatter(
                    x=layers,
                    y=values[:, place].astype(np.float32),
                    name=f"{name}{note}",
                    mode="lines",
                    line={"color": COLORS[place % len(COLORS)], "dash": dash},
                    hovertemplate="%{y:.1%}",
                    row=1,
                    col=column,
                )
    style(figure, 400)
    figure.update_xaxes(title="layer")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(title="fusion weight", row=1, col=1)
    return figure


def clash_figure(clashes: Sequence[PairInterference]) -> go.Figure:
    """What composing a pair costs against how far its modules point the same way."""
    figure = go.Figure()
    figure.add_scatter(
        x=[clash.conflict for clash in clashes],
        y=[clash.loss for clash in clashes],
        text=[clash.target for clash in clashes],
        mode="markers+text",
        textposition="top center",
        marker={"size": 9, "color": COLORS[0]},
        showlegend=False,
        hovertemplate="%{text}: %{y:.1%} at cosine %{x:.3f}<extra></extra>",
    )
    style(figure, 400)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title="cosine of the modules' changes")
    figure.update_yaxes(title="control lost", tickformat=".0%")
    return figure


def _look(arm: str, leads: Sequence[str]) -> dict:
    """The line and marker of an arm.

    Arms that do not lead are grey, without a legend entry, named on hover.
    """
    color, width, size = FAINT, 1, 5
    if arm in leads:
        color, width, size = LEADS[leads.index(arm) % len(LEADS)], 2.5, 7
    look = {"line": {"color": color, "width": width}, "marker": {"color": color, "size": size}}
    return {**look, "showlegend": arm in leads}


def style(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "family": "ui-sans-serif, system-ui, sans-serif", "size": 12},
        margin={"l": 60, "r": 12, "t": 34, "b": 50},
        legend={"font": {"color": GREY}},
    )
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)

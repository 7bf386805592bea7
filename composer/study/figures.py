"""The study's figures: values in, plotly Figure out. Readable in light and in dark mode, like the page's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from composer.study.findings import Clash, Line
from composer.study.kl_reading import Pattern

GREY = "#868c98"
GRID = "rgba(134,140,152,0.22)"
COLORS = qualitative.Dark24
DASHES = ("solid", "dash", "dot")


def draw(figure: go.Figure, first: bool) -> str:
    """The figure as HTML; the first of a page carries the library, so that nothing is fetched."""
    return figure.to_html(full_html=False, include_plotlyjs=first, config={"displaylogo": False})


def strength_figure(lines: Sequence[Line], labels: Mapping[str, str]) -> go.Figure:
    """Control against strength, a line per arm with its 95% interval."""
    figure = go.Figure()
    for place, line in enumerate(lines):
        shares = [share for share, _ in line.sweep.values()]
        figure.add_scatter(
            x=list(line.sweep),
            y=[share.value for share in shares],
            error_y={
                "array": [share.high - share.value for share in shares],
                "arrayminus": [share.value - share.low for share in shares],
                "thickness": 1,
                "width": 3,
            },
            name=labels[line.arm],
            mode="lines+markers",
            **_look(place),
        )
    _style(figure, 480)
    figure.update_xaxes(title="strength")
    figure.update_yaxes(title="control", tickformat=".0%", rangemode="tozero")
    return figure


def fluency_figure(lines: Sequence[Line], labels: Mapping[str, str]) -> go.Figure:
    """Control against median perplexity, a point per strength: up and to the left is better."""
    figure = go.Figure()
    for place, line in enumerate(lines):
        points = [(s, share.value, spread) for s, (share, spread) in line.sweep.items() if spread is not None]
        figure.add_scatter(
            x=[spread for _, _, spread in points],
            y=[share for _, share, _ in points],
            customdata=[strength for strength, _, _ in points],
            hovertemplate="strength %{customdata:g}: %{y:.1%} at perplexity %{x:.1f}",
            name=labels[line.arm],
            mode="lines+markers",
            **_look(place),
        )
    _style(figure, 480)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title="median perplexity under the base", type="log")
    figure.update_yaxes(title="control", tickformat=".0%", rangemode="tozero")
    return figure


def pattern_figure(patterns: Sequence[Pattern]) -> go.Figure:
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
    _style(figure, 400)
    figure.update_xaxes(title="layer")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(title="fusion weight", row=1, col=1)
    return figure


def clash_figure(clashes: Sequence[Clash]) -> go.Figure:
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
    _style(figure, 400)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title="cosine of the modules' changes")
    figure.update_yaxes(title="control lost", tickformat=".0%")
    return figure


def _look(place: int) -> dict:
    color = COLORS[place % len(COLORS)]
    return {
        "line": {"color": color, "width": 2, "dash": DASHES[place // len(COLORS) % len(DASHES)]},
        "marker": {"color": color, "size": 6},
    }


def _style(figure: go.Figure, height: int) -> None:
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

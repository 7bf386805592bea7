"""The test's figures: what shares the right adapter gets by layer, and which adapter each domain's get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from composer.study.domains.statistics import ShareProfile
from composer.study.reporting.charts import GREY, GRID

LEADS = qualitative.D3
# Constant over layers, so that a line says nothing: LoGo's share.
FLAT = ("logo",)


def draw(figure: go.Figure, first: bool) -> str:
    """The figure as HTML; the first of a page carries the library, so that nothing is fetched."""
    return figure.to_html(full_html=False, include_plotlyjs=first, config={"displaylogo": False})


def layer_figure(profiles: Mapping[str, ShareProfile], count: int) -> go.Figure:
    """The right adapter's mean share by layer with its interval, and how often it is the largest.

    count: the number of adapters; chance is 1/count.
    """
    chance = f"(dashed: chance, 1/{count})"
    figure = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=(f"Share of the right adapter {chance}", f"Right adapter's is the largest {chance}"),
    )
    drawn = {name: each for name, each in profiles.items() if name not in FLAT}
    for (name, each), color in zip(drawn.items(), LEADS, strict=False):
        layers = np.arange(1, len(each.by_layer) + 1)
        figure.add_scatter(
            x=np.concatenate([layers, layers[::-1]]),
            y=np.concatenate([each.high, each.low[::-1]]),
            fill="toself",
            fillcolor=color,
            opacity=0.18,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
            row=1,
            col=1,
        )
        for column, values in enumerate((each.by_layer, each.top1_by_layer), start=1):
            figure.add_scatter(
                x=layers,
                y=values,
                name=each.label,
                mode="lines+markers",
                line={"color": color, "width": 2.5},
                marker={"size": 5},
                legendgroup=name,
                showlegend=column == 1,
                hovertemplate="layer %{x}: %{y:.1%}",
                row=1,
                col=column,
            )
    for column in (1, 2):
        figure.add_hline(
            y=1 / count,
            line={"color": GREY, "dash": "dash"},
            row=1,
            col=column,
        )
    style(figure, 440)
    figure.update_layout(legend={"orientation": "h", "y": -0.18}, margin={"b": 90})
    figure.update_xaxes(title="layer")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure


def domain_figure(profile: ShareProfile, names: Sequence[str]) -> go.Figure:
    """Domain x adapter: the mean share over layers, and the share of passages whose largest it is."""
    figure = make_subplots(
        rows=1,
        cols=2,
        horizontal_spacing=0.14,
        subplot_titles=("Mean share of the adapter", "Passages whose largest share it has"),
    )
    total = profile.confusion.sum(axis=1, keepdims=True)
    for column, values in enumerate((profile.mean, profile.confusion / total), start=1):
        figure.add_heatmap(
            x=list(names),
            y=list(names),
            z=values,
            texttemplate="%{z:.0%}",
            # Its own scale: the mean shares lie close together.
            zmin=0,
            zmax=float(values.max()) or 1.0,
            colorscale="Blues",
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="domain %{y}, adapter %{x}: %{z:.1%}<extra></extra>",
            row=1,
            col=column,
        )
    style(figure, 440)
    figure.update_xaxes(title="adapter")
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title={"text": "domain of the text", "standoff": 14}, row=1, col=1)
    return figure


def style(figure: go.Figure, height: int) -> None:
    """Readable in light and in dark mode, like the page's."""
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

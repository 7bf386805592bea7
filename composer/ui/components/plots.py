"""Figures of the page: numpy in, plotly Figure out. The only place besides the catalog that knows a colour.

Backgrounds are transparent and text is mid-grey, so that the same figure reads in light and in dark mode; the
page's style sheet puts its own ink on it. Traces are bars and lines only, numbers go as float32 and no
template is sent: a few kB each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from composer.core.results import Fusion

HEIGHT = 300
LEGEND = 6
GREY = "#868c98"
GRID = "rgba(134,140,152,0.22)"
FONT = "Inter, ui-sans-serif, system-ui, sans-serif"


class Series(NamedTuple):
    """How an adapter appears: the label in legends and its #rrggbb colour."""

    label: str
    color: str


def fusion_figure(fusion: Fusion, series: Sequence[Series]) -> go.Figure:
    """Fusion weights (stacked shares) above the KL they come from, layer by layer.

    fusion.kl, fusion.alpha: [L, N]; series: N. Layers without a verdict are hatched.
    """
    layers = np.arange(1, len(fusion.kl) + 1)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.1, row_heights=[0.55, 0.45])
    undecided = fusion.undecided  # [L]
    for index, (label, color) in enumerate(series):
        figure.add_bar(
            x=layers,
            y=fusion.alpha[:, index].astype(np.float32),
            name=_plain(label),
            legendgroup=str(index),
            showlegend=False,  # its swatch would be the first layer's, which may be hatched
            marker={
                "color": color,
                "opacity": np.where(undecided, 0.35, 0.92),
                "pattern": {"shape": ["/" if flag else "" for flag in undecided], "size": 5},
            },
            customdata=np.where(undecided, "undecided: no adapter moved this layer", ""),
            hovertemplate="%{y:.1%} %{customdata}",
            row=1,
            col=1,
        )
    for index, (label, color) in enumerate(series):
        figure.add_scatter(
            x=layers,
            y=fusion.kl[:, index].astype(np.float32),
            name=_plain(label),
            legendgroup=str(index),
            mode="lines",
            line={"color": color, "width": 2},
            hovertemplate="%{y:.3g} nats",
            row=2,
            col=1,
        )
    _style(figure, height=HEIGHT)
    # A legend of several lines would take the plot's place; hovering names every adapter.
    figure.update_layout(barmode="stack", bargap=0.18, showlegend=len(series) <= LEGEND)
    figure.update_yaxes(title="fusion weight", range=[0, 1], tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title="KL (nats)", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(range=[0.4, len(layers) + 0.6])
    hatched = f" (hatched: {_ranges(layers[undecided])} undecided)" if undecided.any() else ""
    figure.update_xaxes(title="layer" + hatched, row=2, col=1)
    return figure


def contribution_figure(contribution: np.ndarray, series: Sequence[Series]) -> go.Figure:
    """Mean contribution over the text, a line per adapter that took part, layer by layer.

    contribution: [T, L, N], a share of the base's own output; series: N.
    """
    tokens, depth, _ = contribution.shape
    mean = contribution.mean(axis=0) if tokens else np.zeros(contribution.shape[1:], np.float32)  # [L, N]
    layers = np.arange(1, depth + 1)
    figure = go.Figure()
    active = [index for index in range(len(series)) if mean[:, index].any()]
    for index in active:
        low, high = np.percentile(contribution[:, :, index], (10, 90), axis=0).astype(np.float32)  # [L] each
        figure.add_scatter(
            x=layers,
            y=mean[:, index].astype(np.float32),
            name=_plain(series[index].label),
            mode="lines+markers",
            line={"color": series[index].color, "width": 2.5},
            marker={"size": 5},
            customdata=np.stack([low, high], axis=-1),
            hovertemplate="%{y:.1%} (most tokens %{customdata[0]:.1%} to %{customdata[1]:.1%})",
        )
    _style(figure, height=HEIGHT)
    figure.update_yaxes(title="share of the base's output", tickformat=".0%", rangemode="tozero")
    figure.update_xaxes(title="layer", range=[0.4, depth + 0.6])
    if not active:
        figure.add_annotation(text="No adapter added anything: the base wrote alone.", showarrow=False)
    return figure


def _style(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "family": FONT, "size": 12},
        margin={"l": 56, "r": 12, "t": 34, "b": 44},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"color": GREY}},
        showlegend=True,
        hovermode="x unified",
        hoverlabel={"bgcolor": "rgba(30,34,42,0.92)", "font": {"color": "#f2f3f5"}, "bordercolor": GRID},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": GREY},
    )
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True}
    figure.update_xaxes(showgrid=False, **axis)
    figure.update_yaxes(**axis)


def _ranges(layers: np.ndarray) -> str:
    """Runs of layers written short: 1-2, 5."""
    runs = np.split(layers, np.flatnonzero(np.diff(layers) > 1) + 1)
    spans = ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return spans


def _plain(label: str) -> str:
    """A label without plotly's own markup (<b>, <a href>): labels can come from a catalog or a repo."""
    return label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

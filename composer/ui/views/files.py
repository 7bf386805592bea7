"""A generation as files: the text with its settings, what each adapter contributed, and the figures."""

from __future__ import annotations

from dataclasses import asdict

import plotly.io

from composer.ui.views.generation import Progress


def run_files(progress: Progress, base: str) -> dict[str, object]:
    """Contents by file name: text of a page, or values for JSON. base: its Hub id."""
    request = progress.request
    settings = {
        "base": base,
        "prompt": request.prompt,
        "composition": request.composition.as_dict(),
        "sampling": asdict(request.sampling),
    }
    lanes = [each["name"] for each in progress.adapters]
    pieces = [step.piece for step in progress.steps]
    figures = [progress.contribution_figure()]
    if progress.fusion is not None:
        figures.append(progress.fusion_figure(progress.fusion))
    return {
        "text.json": {**settings, "text": progress.text, "tokens": progress.tokens, "pieces": pieces},
        "contributions.json": {
            **settings,
            "pieces": pieces,
            "adapters": lanes,
            "layers": progress.layers,
            "contribution": [step.contribution for step in progress.steps],
            "fusion": None
            if progress.fusion is None
            else {"kl": progress.fusion.kl, "alpha": progress.fusion.alpha},
        },
        "figures.html": _page(figures),
    }


def _page(figures: list) -> str:
    """A page that needs no network: the first figure carries plotly's script."""
    parts = [
        plotly.io.to_html(figure, full_html=False, include_plotlyjs=place == 0, config={"displaylogo": False})
        for place, figure in enumerate(figures)
    ]
    return f"<!doctype html><meta charset='utf-8'><title>Adapter Composer</title>{''.join(parts)}"

"""The tab that shows the adapters, and takes one more by its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gradio as gr

from composer.core.catalog_types import AdapterSpec, FitReport
from composer.ui.settings import Settings

# Every value goes through {{ }}, which escapes; colours were checked to be #rrggbb.
CARDS = """<div class="cards">{{#each value}}
<article class="card" style="--left: {{this.color}}">
  <h3><span class="live-chip" style="background: {{this.color}}"></span>{{this.label}}</h3>
  <p>{{this.blurb}}</p>
  <p class="card-facts">{{this.facts}}</p>
</article>{{/each}}</div>"""
REPORT = """<div class="report" data-ok="{{value.ok}}"><p>{{value.headline}}</p>
<ul>{{#each value.reasons}}<li>{{this}}</li>{{/each}}</ul></div>"""


@dataclass(frozen=True)
class AdaptersTab:
    """Everything of the tab that events connect."""

    cards: gr.HTML
    source: gr.Textbox
    add: gr.Button
    report: gr.HTML


def build(cards: list[dict[str, str]], settings: Settings) -> AdaptersTab:
    """Lay the tab out inside the current Blocks context; connects nothing."""
    shown = gr.HTML(cards, html_template=CARDS, elem_id="cards")
    with gr.Accordion("Add an adapter", open=True, visible=settings.max_added > 0, elem_id="add-adapter"):
        where = "Hub repo id (owner/name)" + (" or a folder on this machine" if settings.folders else "")
        gr.Markdown(
            "A LoRA adapter in PEFT's format that was made for the same base. Its configuration and tensor "
            "shapes are checked before its weights are read; it then gets a slider for everybody who uses "
            "this page, until the page restarts."
        )
        with gr.Row(equal_height=True):
            source = gr.Textbox(label=where, max_length=300, scale=4, elem_id="add-source")
            add = gr.Button("Check and add", scale=1, min_width=140, elem_id="add-button")
        report = gr.HTML({}, html_template=REPORT, elem_id="add-report", visible=False)
    return AdaptersTab(shown, source, add, report)


def cards(
    adapters: Sequence[AdapterSpec], colors: Mapping[str, str], reports: Mapping[str, FitReport]
) -> list[dict[str, str]]:
    """One card per loaded adapter, in order."""
    return [
        {
            "label": adapter.label or adapter.name,
            "blurb": adapter.description,
            "color": colors[adapter.name],
            "facts": facts(reports.get(adapter.name)),
        }
        for adapter in adapters
    ]


def facts(report: FitReport | None) -> str:
    """Ranks, sites and size of an adapter in a few words."""
    if report is None or not report.ranks:
        return ""
    ranks = "/".join(str(rank) for rank in sorted(set(report.ranks.values())))
    size = f", {report.bytes / 1e6:.1f} MB" if report.bytes else ""
    return f"rank {ranks} at {len(report.ranks)} sites{size}"


def report_value(report: FitReport | None, refusal: str = "") -> dict[str, object]:
    """What the report under the form shows: a fit report, or one sentence."""
    if report is None:
        return {"ok": False, "headline": refusal, "reasons": []}
    if report.ok:
        return {
            "ok": True,
            "headline": f"{report.name} fits: {facts(report)}. Its slider is ready.",
            "reasons": [],
        }
    return {
        "ok": False,
        "headline": f"{report.name} does not fit this base.",
        "reasons": list(report.reasons),
    }


def unavailable(reports: Sequence[FitReport], names: Sequence[str]) -> str:
    """A sentence about the catalog's adapters that are not here, and why; empty when all are."""
    failed = [report for report in reports if not report.ok and report.name not in names]
    return " ".join(f"{each.name} is not available: {' '.join(each.reasons)}" for each in failed)

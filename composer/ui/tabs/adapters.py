"""The tab that shows the adapters, finds others on the Hub, and takes in what a visitor brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gradio as gr

from composer.adapters.hub import Found
from composer.adapters.model_card import ModelCard
from composer.core.catalog_types import FitReport
from composer.ui.components import template
from composer.ui.settings import Settings

HINT = (
    "Words find adapters that others have published for this base; an id, an address from the browser's "
    "bar{} is checked at once. Only a configuration and the shapes of tensors are read before you add one, "
    "and its slider is yours alone."
)


@dataclass(frozen=True)
class AdaptersTab:
    """Everything of the tab that events connect."""

    cards: gr.HTML
    source: gr.Textbox
    find: gr.Button
    finder: gr.HTML


def build(cards: Mapping[str, object], base: str, settings: Settings) -> AdaptersTab:
    """Lay the tab out inside the current Blocks context; connects nothing. base: how the page calls it."""
    with gr.Column(visible=settings.max_added > 0, elem_id="add-adapter"):
        with gr.Row(equal_height=True, elem_id="add-row"):
            source = gr.Textbox(
                label=f"Find or add an adapter for {base}",
                placeholder="pirate, owner/name or https://huggingface.co/owner/name",
                max_length=300,
                scale=4,
                elem_id="add-source",
            )
            find = gr.Button("Find", scale=0, min_width=120, elem_id="add-button")
        gr.Markdown(
            HINT.format(" or a folder on this machine" if settings.folders else ""), elem_classes="caption"
        )
        finder = template.component("finder", {}, "finder")
    shown = template.component("adapters", cards, "cards")
    return AdaptersTab(shown, source, find, finder)


def card(
    entry: Mapping[str, str], blurb: str, base: str, report: FitReport | None, found: ModelCard, own: bool
) -> dict[str, object]:
    """An adapter's card. entry: its name, label and color. own: whether the visitor brought it."""
    return {**entry, "blurb": blurb, "own": own, "facts": facts(base, report, found)}


def facts(base: str, report: FitReport | None, found: ModelCard) -> list[list[str]]:
    """What is known of an adapter: pairs of a heading and a short text."""
    measured = ""
    if found.control:
        what = f" ({found.sign})" if found.sign else ""
        measured = f"{found.control} of its texts{what}, {found.alone} of the base's"
    pairs = {
        "Control": measured,
        "Trained on": ", ".join(found.datasets),
        "Licence": found.license,
        "Base": base,
        "Size": size(report),
    }
    return [[heading, text] for heading, text in pairs.items() if text]


def size(report: FitReport | None) -> str:
    """Ranks, sites and size of an adapter in a few words."""
    if report is None or not report.ranks:
        return ""
    ranks = "/".join(str(rank) for rank in sorted(set(report.ranks.values())))
    megabytes = f", {report.bytes / 1e6:.1f} MB" if report.bytes else ""
    return f"rank {ranks} at {len(report.ranks)} sites{megabytes}"


def report_value(base: str, report: FitReport, found: ModelCard, done: str = "") -> dict[str, object]:
    """What the finder shows of one adapter: whether it fits, why not, and what is known of it.

    done: a sentence that takes the place of the button that adds it.
    """
    if not report.ok:
        headline = f"{report.source} does not fit this base."
        return {"report": {"ok": False, "headline": headline, "reasons": list(report.reasons), "facts": []}}
    headline = done or f"{report.source} fits this base. Nothing of its weights has been downloaded yet."
    return {
        "report": {
            "ok": True,
            "headline": headline,
            "reasons": [],
            "facts": facts(base, report, found),
            "add": not done,
        }
    }


def found_value(found: Sequence[Found], words: str, base: str) -> dict[str, object]:
    """What the finder shows of a search."""
    rows = [
        {
            "id": each.id,
            "facts": " · ".join(
                part
                for part in (
                    f"{each.downloads:,} downloads",
                    f"{each.likes:,} likes",
                    each.license,
                    ", ".join(each.datasets),
                    "gated" if each.gated else "",
                )
                if part
            ),
        }
        for each in found
    ]
    if rows:
        many = "1 adapter" if len(rows) == 1 else f"{len(rows)} adapters"
        message = f"{many} for {base}, by what their authors say. Check one to see whether it fits."
    else:
        about = f" with {words[:60]!r} in its name" if words else ""
        message = f"The Hub lists no adapter for {base}{about}. Try another word, or give an id."
    return {"message": message, "found": rows}


def unavailable(reports: Sequence[FitReport], names: Sequence[str]) -> str:
    """A sentence about the catalog's adapters that are not here, and why; empty when all are."""
    failed = [report for report in reports if not report.ok and report.name not in names]
    return " ".join(f"{each.name} is not available: {' '.join(each.reasons)}" for each in failed)

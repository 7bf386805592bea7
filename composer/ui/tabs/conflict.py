"""The tab that shows why: how the adapters of the mix work together and against each other."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from composer.ui.components import template

EMPTY = "Measures what the mix under Compose does, on its prompt and the text that stands there."


@dataclass(frozen=True)
class ConflictTab:
    """Everything of the tab that events connect."""

    measure: gr.Button
    stop: gr.Button
    results: gr.HTML


def build() -> ConflictTab:
    """Lays the tab out in the current Blocks context. Connects no events."""
    with gr.Row(elem_id="conflict-ask", equal_height=True):
        measure = gr.Button(
            "Measure this mix", variant="primary", elem_id="conflict-go", scale=0, min_width=180
        )
        stop = gr.Button(
            "Stop", variant="stop", interactive=False, elem_id="conflict-stop", scale=0, min_width=80
        )
    results = template.component("conflict", {"message": EMPTY}, "conflict-results", ("charts.js",))
    return ConflictTab(measure, stop, results)

"""The tab that compares: one prompt and one seed under several compositions, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from composer.methods import METHODS
from composer.ui.components import template
from composer.ui.settings import Settings

# Ticked at first: the plain sum, what the study found best, and the paper's.
FIRST = ("sum", "contrast", "kl")
# Shown beside them; the others fold away.
ALSO = ("arrow", "ties", "logits")
COUNTS = (("1 text each", 1), ("4 texts each, means", 4), ("8 texts each, means", 8))


@dataclass(frozen=True)
class CompareTab:
    """Everything of the tab that events connect."""

    tab: gr.Tab
    prompt: gr.Textbox
    seed: gr.Number
    count: gr.Dropdown
    compare: gr.Button
    again: gr.Button
    stop: gr.Button
    methods: gr.CheckboxGroup
    others: gr.CheckboxGroup
    results: gr.HTML


def build(tab: gr.Tab, prompt: str, seed: int, settings: Settings) -> CompareTab:
    """Lays the tab out in the current Blocks context. Connects no events."""
    with gr.Row(elem_id="compare-ask", equal_height=True):
        text = gr.Textbox(
            prompt,
            label="Prompt",
            max_length=settings.max_prompt_chars,
            elem_id="compare-prompt",
            scale=5,
        )
        number = gr.Number(
            seed,
            precision=0,
            minimum=0,
            maximum=2**32 - 1,
            label="Seed",
            elem_id="compare-seed",
            scale=1,
            min_width=90,
        )
        count = gr.Dropdown(
            list(COUNTS), value=1, label="Texts", elem_id="compare-count", scale=2, min_width=150
        )
        compare = gr.Button("Compare", variant="primary", elem_id="compare-go", scale=1, min_width=120)
        again = gr.Button("Another seed", elem_id="compare-again", scale=0, min_width=120)
        stop = gr.Button(
            "Stop", variant="stop", interactive=False, elem_id="compare-stop", scale=0, min_width=80
        )
    open_ones = [name for name in (*FIRST, *ALSO) if name in METHODS]
    methods = _ticks(
        open_ones,
        [name for name in FIRST if name in METHODS],
        "Beside the base and each adapter in use alone, your mix by these methods",
        "compare-methods",
    )
    folded = [name for name in METHODS if name not in open_ones]
    with gr.Accordion(f"{len(folded)} more methods", open=False, elem_id="compare-more"):
        others = _ticks(folded, [], "", "compare-others")
    results = template.component("compare", {"columns": [], "message": ""}, "compare-results")
    return CompareTab(tab, text, number, count, compare, again, stop, methods, others, results)


def _ticks(names: list[str], ticked: list[str], label: str, elem_id: str) -> gr.CheckboxGroup:
    return gr.CheckboxGroup(
        [(METHODS[name].label, name) for name in names],
        value=ticked,
        label=label,
        show_label=bool(label),
        elem_id=elem_id,
    )

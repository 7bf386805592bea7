"""The tab that shows how much is right: one slider swept, or two, with the judges' verdict at each weight."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from composer.ui.components import template

EMPTY = "Writes texts of the mix under Compose while one slider, or two, run over their weights."
NOTHING = ("", "nothing else")
POINTS = (5, 7, 9, 13)
# How many prompts; 0: the one under Compose, OWN: the visitor's.
OWN, MOST_OWN = -1, 20
PROMPTS = (
    ("the prompt under Compose", 0),
    ("5 openings of any kind", 5),
    ("15 openings of any kind", 15),
    ("my own, one a line", OWN),
)
COUNTS = ((1, "1 text each"), (2, "2 texts each"), (4, "4 texts each"))


@dataclass(frozen=True)
class DoseForm:
    """What a browser sent of the tab, unchecked."""

    first: object
    low: object
    high: object
    points: object
    second: object
    second_low: object
    second_high: object
    prompts: object
    own: object
    count: object


@dataclass(frozen=True)
class DoseTab:
    """Everything of the tab that events connect."""

    tab: gr.Tab
    first: gr.Dropdown
    low: gr.Number
    high: gr.Number
    points: gr.Dropdown
    second: gr.Dropdown
    second_low: gr.Number
    second_high: gr.Number
    prompts: gr.Dropdown
    own: gr.Textbox
    count: gr.Dropdown
    sweep: gr.Button
    stop: gr.Button
    results: gr.HTML

    @property
    def inputs(self) -> list:
        """What a sweep is asked with, in the order of DoseForm."""
        first = [self.first, self.low, self.high, self.points]
        return [*first, self.second, self.second_low, self.second_high, self.prompts, self.own, self.count]


def build(tab: gr.Tab, adapters: list[tuple[str, str]]) -> DoseTab:
    """Lays the tab out in the current Blocks context. Connects no events. adapters: (label, name) pairs."""
    with gr.Row(elem_id="dose-ask", equal_height=True):
        first = gr.Dropdown(adapters, value=None, label="Sweep", elem_id="dose-first", min_width=150)
        low, high = _number(0, "from", "dose-low"), _number(2, "to", "dose-high")
        points = gr.Dropdown(
            [(f"{count} weights", count) for count in POINTS],
            value=9,
            label="in",
            elem_id="dose-points",
            min_width=110,
        )
        second = gr.Dropdown(
            [NOTHING[::-1], *adapters], value="", label="and", elem_id="dose-second", min_width=150
        )
        second_low = _number(0, "from", "dose-low-2", visible=False)
        second_high = _number(2, "to", "dose-high-2", visible=False)
    with gr.Row(elem_id="dose-texts", equal_height=True):
        prompts = gr.Dropdown(list(PROMPTS), value=5, label="Prompts", elem_id="dose-prompts", min_width=180)
        count = gr.Dropdown(
            [(label, number) for number, label in COUNTS],
            value=1,
            label="Texts of a prompt at each weight",
            elem_id="dose-count",
            min_width=150,
        )
        sweep = gr.Button("Sweep", variant="primary", elem_id="dose-go", scale=0, min_width=120)
        stop = gr.Button(
            "Stop", variant="stop", interactive=False, elem_id="dose-stop", scale=0, min_width=80
        )
    own = gr.Textbox(
        label=f"Prompts, one a line, {MOST_OWN} at most",
        lines=3,
        max_lines=8,
        max_length=4000,
        visible=False,
        elem_id="dose-own",
    )
    results = template.component("dose", {"message": EMPTY}, "dose-results", ("charts.js",))
    ranges = (low, high, points, second, second_low, second_high)
    return DoseTab(tab, first, *ranges, prompts, own, count, sweep, stop, results)


def _number(value: float, label: str, elem_id: str, visible: bool = True) -> gr.Number:
    return gr.Number(value, label=label, step=0.25, elem_id=elem_id, min_width=70, visible=visible)

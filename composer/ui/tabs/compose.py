"""The tab where one composes: prompt, sliders, Generate, the live view, and the figures."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

import gradio as gr
import numpy as np
import plotly.graph_objects as go
from gradio.components import Component

from composer.core.catalog_types import Example
from composer.core.composition import Composition, Sampling
from composer.core.parameters import Parameter, parameters_of
from composer.methods import METHODS
from composer.ui.components import contribution_map as live
from composer.ui.components import curves, lesson, method_controls, next_words
from composer.ui.components.weight_sliders import WeightSlider, is_shown, needs_per_adapter, to_values
from composer.ui.settings import Settings

FUSION_CAPTION = (
    "**KL fusion weights.** How this prompt shares each layer; below, how far each adapter moves it."
)
CONTRIBUTION_CAPTION = (
    "**Contribution by layer.** Each adapter's output beside the base's own, over the text."
)
BANDS = ("early", "middle", "late")
# Sliders that stay open at 0, beside those of added adapters; the others fold away while they are not used.
LEADING = 3


@dataclass(frozen=True)
class Controls:
    """The widgets of a request, in the order in which handlers receive their values."""

    # The visitor's own adapters (Visitor).
    visitor: gr.State
    prompt: gr.Textbox
    method: gr.Dropdown
    strength: gr.Slider
    bands: tuple[gr.Slider, ...]
    parameters: Mapping[str, Component]
    sampling: Mapping[str, gr.Slider | gr.Number]
    per_adapter: gr.Checkbox
    curves: gr.HTML
    weights: tuple[gr.Slider, ...]

    @property
    def inputs(self) -> list:
        shape = [self.strength, *self.bands, *self.parameters.values()]
        mix = [self.per_adapter, self.curves, *self.weights]
        return [self.visitor, self.prompt, self.method, *shape, *self.sampling.values(), *mix]

    @property
    def preview_triggers(self) -> list:
        """The events after which the next words are computed anew."""
        return [
            *(slider.release for slider in (self.strength, *self.bands, *self.weights)),
            *(each.release for each in self.parameters.values() if isinstance(each, gr.Slider)),
            self.prompt.blur,
            self.method.input,
            self.curves.edit,
        ]

    def read(self, values: tuple) -> dict:
        """Handler arguments back by name: visitor, prompt, method, bands, parameters, sampling, per_adapter,
        curves, sliders."""
        visitor, prompt, method, strength, early, middle, late, *rest = values
        own, rest = rest[: len(self.parameters)], rest[len(self.parameters) :]
        cut = len(self.sampling)
        return {
            "visitor": visitor,
            "prompt": prompt,
            "method": method,
            "bands": (early, middle, late),
            "parameters": {
                "strength": strength,
                **method_controls.read(dict(zip(self.parameters, own, strict=True))),
            },
            "sampling": dict(zip(self.sampling, rest[:cut], strict=True)),
            "per_adapter": rest[cut],
            "curves": rest[cut + 1],
            "sliders": rest[cut + 2 :],
        }


@dataclass(frozen=True)
class ComposeTab:
    """Everything of the tab that events connect."""

    controls: Controls
    generate: gr.Button
    step: gr.Button
    back: gr.Button
    stop: gr.Button
    live: gr.HTML
    next_words: gr.HTML
    fusion: gr.Plot
    contribution: gr.Plot
    method_help: gr.HTML
    more: gr.Accordion
    dice: gr.Button
    zero: gr.Button
    unavailable: gr.HTML
    examples: tuple[gr.Button, ...]
    lesson: gr.HTML

    @property
    def restored(self) -> list:
        """What a preset or a recipe puts back, in the order of Mixing.restore."""
        controls = self.controls
        return [
            controls.prompt,
            controls.method,
            self.method_help,
            *controls.parameters.values(),
            self.more,
            controls.strength,
            *controls.bands,
            *controls.sampling.values(),
            controls.per_adapter,
            controls.curves,
            *controls.weights,
        ]


@dataclass(frozen=True)
class Opening:
    """How the tab opens."""

    live: dict[str, object]
    next_words: dict[str, object]
    composition: Composition
    sampling: Sampling
    prompt: str = ""
    fusion: go.Figure | None = None
    contribution: go.Figure | None = None
    # Each adapter's fusion weights, [L].
    alpha: Mapping[str, np.ndarray] = field(default_factory=dict)


def build(
    slots: tuple[WeightSlider, ...],
    examples: tuple[Example, ...],
    unavailable: str,
    opening: Opening,
    settings: Settings,
    layers: int,
    visitor: gr.State,
) -> ComposeTab:
    """Lays the tab out in the current Blocks context. Connects no events.

    layers: the base's. visitor: see Controls.
    """
    composition = opening.composition
    separate = needs_per_adapter(slots, composition.weights)
    values = to_values(slots, composition.weights, ())
    lesson_panel = lesson.component()
    with gr.Row(elem_id="desk"):
        with gr.Column(scale=5, min_width=330, elem_id="controls"):
            prompt = gr.Textbox(
                opening.prompt,
                label="Prompt",
                placeholder="Begin a text, e.g. The new stadium",
                lines=2,
                max_lines=5,
                max_length=settings.max_prompt_chars,
                elem_id="prompt",
            )
            with gr.Row(elem_id="examples"):
                buttons = tuple(
                    gr.Button(
                        example.label or _example_label(example),
                        size="sm",
                        elem_classes=["example", f"example-{place}"],
                    )
                    for place, example in enumerate(examples)
                )
            with gr.Group(elem_id="mix"):
                with gr.Row(elem_id="mix-head"):
                    per_adapter = gr.Checkbox(
                        separate, label="One slider per adapter", container=False, elem_id="every"
                    )
                    zero = gr.Button("All to 0", size="sm", elem_id="zero")
                shown = [slot for slot in slots if is_shown(slot, separate)]
                weights = tuple(
                    _weight(slot, value, separate, lead=slot in shown[:LEADING] or slot.spare is not None)
                    for slot, value in zip(slots, values, strict=True)
                )
                painter = curves.component(slots, layers, opening.alpha)
                gr.Button("More adapters", size="sm", elem_id="more-adapters")
                unavailable = gr.HTML(
                    unavailable,
                    html_template="<p>{{value}}</p>",
                    visible=bool(unavailable),
                    elem_id="unavailable",
                )
            with gr.Row(elem_id="actions"):
                generate = gr.Button(
                    "Generate", variant="primary", elem_id="generate", scale=3, min_width=120
                )
                step = gr.Button("Step", elem_id="step", scale=1, min_width=60)
                back = gr.Button("Back", elem_id="back", scale=1, min_width=60)
                stop = gr.Button(
                    "Stop", variant="stop", interactive=False, elem_id="stop", scale=1, min_width=60
                )
            method, method_help, own, more = _method(composition)
            strength, bands = _shape(composition)
            sampling, dice = _sampling(opening.sampling, settings)
        with gr.Column(scale=7, min_width=330, elem_id="stage"):
            view = live.component(opening.live)
            words = next_words.component(opening.next_words)
            with gr.Row(elem_id="figures"):
                with gr.Column(min_width=280):
                    fusion = gr.Plot(opening.fusion, show_label=False, elem_id="fusion")
                    gr.Markdown(FUSION_CAPTION, elem_classes="caption")
                with gr.Column(min_width=330):
                    contribution = gr.Plot(opening.contribution, show_label=False, elem_id="contribution")
                    gr.Markdown(CONTRIBUTION_CAPTION, elem_classes="caption")
    controls = Controls(
        visitor, prompt, method, strength, bands, own, sampling, per_adapter, painter, weights
    )
    return ComposeTab(
        controls,
        generate,
        step,
        back,
        stop,
        view,
        words,
        fusion,
        contribution,
        method_help,
        more,
        dice,
        zero,
        unavailable,
        buttons,
        lesson_panel,
    )


def parameter_updates(method: str, values: Composition | None = None) -> list:
    """Updates of the help line and the parameters' controls for a method; with values, these too."""
    return [method_words(method), *method_controls.updates(method, values)]


def method_words(method: str) -> dict[str, str]:
    """What the line under the method's name says."""
    return {"help": METHODS[method].help, "source": METHODS[method].source}


def new_seed() -> int:
    """An unpredictable seed that is short enough to read aloud."""
    return secrets.randbelow(1_000_000)


def _example_label(example: Example) -> str:
    """The movie · positive + sports: what a click on a card without a label will set."""
    prompt = example.prompt if len(example.prompt) <= 28 else example.prompt[:27].rstrip() + "…"
    return f"{prompt} · " + " + ".join(example.weights)


def _weight(slot: WeightSlider, value: float, per_adapter: bool, lead: bool) -> gr.Slider:
    return gr.Slider(
        slot.slider.minimum,
        slot.slider.maximum,
        value=value,
        step=slot.slider.step,
        label=slot.label,
        info=slot.description or None,
        visible=is_shown(slot, per_adapter),
        buttons=[],
        elem_id=slot.key,
        # Folded away from the first frame on; mix.js takes over from there.
        elem_classes=[
            "weight",
            "two-way" if slot.pair else "one-way",
            *(["lead"] if lead else ["idle"] if value == 0 else []),
        ],
    )


def _method(default_composition: Composition) -> tuple:
    with gr.Group(elem_id="method-group"):
        method = gr.Dropdown(
            [(f"{each.family} · {each.label}", each.name) for each in METHODS.values()],
            value=default_composition.method,
            label="Method",
            elem_id="method",
        )
        words = gr.HTML(
            method_words(default_composition.method),
            html_template="<p>{{value.help}} <cite>{{value.source}}</cite></p>",
            elem_id="method-help",
        )
        own, more = method_controls.build(default_composition)
    return method, words, own, more


def _shape(default_composition: Composition) -> tuple[gr.Slider, tuple[gr.Slider, ...]]:
    declared = parameters_of(Composition)["strength"]
    with gr.Accordion("Strength and layers", open=False, elem_id="shape"):
        strength = _slider(declared, default_composition.strength, elem_id="strength")
        bands = tuple(
            gr.Slider(-2, 2, band, step=0.05, label=f"{name.capitalize()} layers", elem_id=f"band-{name}")
            for name, band in zip(BANDS, default_composition.bands, strict=True)
        )
    return strength, bands


# The page's own limits, where they are narrower than what the engine takes.
SAMPLING = {
    "max_new_tokens": "max-new-tokens",
    "temperature": "temperature",
    "top_p": "top-p",
    "top_k": "top-k",
    "repetition_penalty": "repetition",
}
LOWEST = {"top_p": 0.05, "repetition_penalty": 1}


def _sampling(opening: Sampling, settings: Settings) -> tuple[Mapping[str, gr.Slider | gr.Number], gr.Button]:
    declared = parameters_of(Sampling)
    with gr.Accordion("Sampling", open=False, elem_id="sampling"):
        with gr.Row():
            own = declared["seed"]
            seed = gr.Number(
                opening.seed,
                precision=0,
                minimum=own.low,
                maximum=own.high,
                label=own.label,
                elem_id="seed",
            )
            dice = gr.Button("New seed", size="sm", elem_id="dice", min_width=110)
        fields: dict[str, gr.Slider | gr.Number] = {}
        for name, elem_id in SAMPLING.items():
            most = settings.max_new_tokens if name == "max_new_tokens" else None
            fields[name] = _slider(
                declared[name], getattr(opening, name), LOWEST.get(name), most, elem_id=elem_id
            )
        fields["seed"] = seed
    return fields, dice


def _slider(
    declared: Parameter, value: float, low: float | None = None, high: float | None = None, **own
) -> gr.Slider:
    high = high or declared.page_high or declared.high
    low = declared.low if low is None else low
    return gr.Slider(low, high, min(value, high), step=declared.step, label=declared.label, **own)

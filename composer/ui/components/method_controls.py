"""The method's own dials: a widget for every field of Composition that some method listens to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import gradio as gr
from gradio.components import Component

from composer.core.composition import Composition
from composer.methods import METHODS, Method

# A dial by the field it sets. Those in MORE are folded away: the usual value suits nearly everybody. Those in
# UNSET stand at 0 where the method decides; a browser has no number that is none.
MAKERS: Mapping[str, Callable[..., Component]] = {
    "blend": lambda **own: gr.Slider(0, 1, step=0.05, label="Blend: plain sum … fusion weights", **own),
    "scale": lambda **own: gr.Radio(
        [("mean 1 (adapters keep their strength)", "unit"), ("as published (shares of 1)", "paper")],
        label="Scale of the fusion weights",
        **own,
    ),
    "contrast": lambda **own: gr.Slider(
        0, 1, step=0.05, label="Contrast: how much of the opposites is taken away", **own
    ),
    "tokens": lambda **own: gr.Radio(
        [("the prompt's last token", "last"), ("all its tokens, in the mean", "all")],
        label="Fusion weights are read at",
        **own,
    ),
    "norm": lambda **own: gr.Checkbox(label="Final norm before the lens that reads them", **own),
    "live": lambda **own: gr.Slider(
        0,
        32,
        step=1,
        label="Read anew after so many tokens (0: once, at the start)",
        info="What was written before keeps the weights it was written under.",
        **own,
    ),
    "rank": lambda **own: _or_usual("Merged rank", 64, 1, **own),
    "density": lambda **own: _or_usual("Density kept", 1, 0.05, **own),
    "core": lambda **own: _or_usual("Core share", 0.5, 0.005, **own),
    "omega": lambda **own: _or_usual("Pull of each next adapter", 1, 0.05, **own),
}
UNSET = ("rank", "density", "core", "omega")
MORE = ("tokens", "norm", "live", *UNSET)
FIRST = tuple(name for name in MAKERS if name not in MORE)


def build(default_composition: Composition) -> tuple[dict[str, Component], gr.Accordion]:
    """Every dial in the current Blocks context, and the accordion of the further ones; shown as the method
    needs them. opening: whose values they have at first."""
    method = METHODS[default_composition.method]

    def made(name: str) -> Component:
        return MAKERS[name](
            value=_value(default_composition, name), visible=name in method.parameters, elem_id=name
        )

    parameters = {name: made(name) for name in FIRST}
    label = "More dials of this method"
    with gr.Accordion(label, open=False, visible=_folds(method), elem_id="more") as more:
        parameters |= {name: made(name) for name in MORE}
    return parameters, more


def updates(method: str, values: Composition | None = None) -> list:
    """Visibility of each dial, in the order of `build`, and of the accordion; with values, these too."""
    chosen, names = METHODS[method], (*FIRST, *MORE)
    own = [{} if values is None else {"value": _value(values, name)} for name in names]
    shown = [
        gr.update(visible=name in chosen.parameters, **each) for name, each in zip(names, own, strict=True)
    ]
    return [*shown, gr.update(visible=_folds(chosen))]


def read(values: Mapping[str, object]) -> dict[str, object]:
    """Fields of Composition from the dials' values."""
    return {name: None if name in UNSET and value == 0 else value for name, value in values.items()}


def _value(composition: Composition, name: str) -> object:
    value = getattr(composition, name)
    return 0 if name in UNSET and value is None else value


def _or_usual(label: str, maximum: float, step: float, **own) -> gr.Slider:
    return gr.Slider(0, maximum, step=step, label=f"{label} (0 = usual)", **own)


def _folds(method: Method) -> bool:
    return any(name in method.parameters for name in MORE)

"""The controls of the chosen method, made from the declarations of the parameters that methods read."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr
from gradio.components import Component

from composer.core.composition import Composition
from composer.core.parameters import Parameter, parameters_of
from composer.methods import METHODS, Method

DECLARED = {
    name: each
    for name, each in parameters_of(Composition).items()
    if any(name in method.parameters for method in METHODS.values())
}
# Advanced ones are folded away.
FIRST = tuple(name for name, each in DECLARED.items() if not each.advanced)
MORE = tuple(name for name, each in DECLARED.items() if each.advanced)


def build(default: Composition) -> tuple[dict[str, Component], gr.Accordion]:
    """Every parameter's control in the current Blocks context, and the accordion of the advanced ones.

    Controls that the method does not read are hidden. default: the composition of the initial values.
    """
    method = METHODS[default.method]

    def made(name: str) -> Component:
        return _control(
            DECLARED[name],
            value=_value(default, name),
            visible=name in method.parameters,
            elem_id=name,
        )

    controls = {name: made(name) for name in FIRST}
    with gr.Accordion("Advanced", open=False, visible=_has_advanced(method), elem_id="more") as more:
        controls |= {name: made(name) for name in MORE}
    return controls, more


def updates(method: str, values: Composition | None = None) -> list:
    """Visibility of each control, in the order of `build`, and of the accordion; with values, these too."""
    chosen, names = METHODS[method], (*FIRST, *MORE)
    own = [{} if values is None else {"value": _value(values, name)} for name in names]
    shown = [
        gr.update(visible=name in chosen.parameters, **each) for name, each in zip(names, own, strict=True)
    ]
    return [*shown, gr.update(visible=_has_advanced(chosen))]


def read(values: Mapping[str, object]) -> dict[str, object]:
    """Fields of Composition from the controls' values."""
    return {name: None if DECLARED[name].optional and value == 0 else value for name, value in values.items()}


def _control(each: Parameter, **own) -> Component:
    if each.kind is bool:
        return gr.Checkbox(label=each.label, **own)
    if each.choices is not None:
        return gr.Radio([(label, value) for value, label in each.choices.items()], label=each.label, **own)
    # A browser has no number that is none, so 0 stands for the method's usual value.
    label = f"{each.label} (0 = usual)" if each.optional else each.label
    low = 0 if each.optional else each.low
    return gr.Slider(low, each.page_high or each.high, step=each.step, label=label, info=each.info, **own)


def _value(composition: Composition, name: str) -> object:
    value = getattr(composition, name)
    return 0 if DECLARED[name].optional and value is None else value


def _has_advanced(method: Method) -> bool:
    return any(name in method.parameters for name in MORE)

"""The method's own dials: one for every field that a method listens to, and nothing else to send."""

from __future__ import annotations

import gradio as gr
import pytest

from composer.core.composition import Composition
from composer.methods import METHODS
from composer.ui.components import method_controls


def test_every_dial_of_every_method_has_a_widget():
    assert {dial for method in METHODS.values() for dial in method.parameters} == set(
        method_controls.DECLARED
    )


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_untouched_dials_are_a_plain_composition(method):
    with gr.Blocks():
        made, more = method_controls.build(Composition(method=method.name))
    values = {name: widget.value for name, widget in made.items()}
    assert Composition(method=method.name, **method_controls.read(values)) == Composition(method=method.name)
    assert {name for name, widget in made.items() if widget.visible} == set(method.parameters)
    assert more.visible == any(made[name].visible for name in method_controls.MORE)
    assert [update["visible"] for update in method_controls.updates(method.name)] == [
        *(widget.visible for widget in made.values()),
        more.visible,
    ]


def test_the_parameters_open_at_the_given_values():
    default_composition = Composition(method="kl-contrast", contrast=0.5, blend=0.25, scale="paper", rank=8)
    with gr.Blocks():
        made, _ = method_controls.build(default_composition)
    assert (
        Composition(method="kl-contrast", **method_controls.read({k: w.value for k, w in made.items()}))
        == default_composition
    )


def test_what_is_set_is_kept():
    assert method_controls.read({"blend": 0, "rank": 8, "density": 0.3, "core": 0}) == {
        "blend": 0,
        "rank": 8,
        "density": 0.3,
        "core": None,
    }

"""The method's own dials: one for every field that a method listens to, and nothing else to send."""

from __future__ import annotations

import gradio as gr
import pytest

from composer.core.composition import Composition
from composer.methods import METHODS
from composer.ui.components import method_controls as dials


def test_every_dial_of_every_method_has_a_widget():
    assert {dial for method in METHODS.values() for dial in method.dials} == set(dials.MAKERS)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_untouched_dials_are_a_plain_composition(method):
    with gr.Blocks():
        made, more = dials.build(Composition(method=method.name))
    values = {name: widget.value for name, widget in made.items()}
    assert Composition(method=method.name, **dials.read(values)) == Composition(method=method.name)
    assert {name for name, widget in made.items() if widget.visible} == set(method.dials)
    assert more.visible == any(made[name].visible for name in dials.MORE)
    assert [update["visible"] for update in dials.updates(method.name)] == [
        *(widget.visible for widget in made.values()),
        more.visible,
    ]


def test_the_dials_open_where_they_are_told_to():
    opening = Composition(method="kl-contrast", contrast=0.5, blend=0.25, scale="paper", rank=8)
    with gr.Blocks():
        made, _ = dials.build(opening)
    assert Composition(method="kl-contrast", **dials.read({k: w.value for k, w in made.items()})) == opening


def test_what_is_set_is_kept():
    assert dials.read({"blend": 0, "rank": 8, "density": 0.3, "core": 0}) == {
        "blend": 0,
        "rank": 8,
        "density": 0.3,
        "core": None,
    }

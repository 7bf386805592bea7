"""The panel of a lesson above the controls that it drives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

from composer.core.catalog_types import Attribute
from composer.ui.components import template
from composer.ui.components.weight_sliders import WeightSlider


def component() -> gr.HTML:
    """The panel, hidden. Its value: what `handlers.learning` makes, with `sliders`."""
    panel = template.component("lesson", {"lesson": None}, "lesson")
    panel.visible = False
    return panel


def sliders(pool: Sequence[WeightSlider], groups: Sequence[Attribute]) -> dict[str, object]:
    """What the panel's formula needs to read the sliders: whose each is, and how many opposites each has."""
    labels = {slot.adapters[0]: slot.label for slot in pool if len(slot.adapters) == 1}
    slots: list[Mapping[str, object]] = [
        {
            "key": slot.key,
            "names": list(slot.adapters),
            "labels": [labels.get(name, name) for name in slot.adapters],
            "colors": list(slot.colors),
        }
        for slot in pool
        if slot.adapters
    ]
    opposites = {name: len(group.members) - 1 for group in groups for name in group.members}
    return {"slots": slots, "opposites": opposites}

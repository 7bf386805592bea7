"""The painter of curves over the layers and of spans of tokens: a small curve beside each slider opens it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr
import numpy as np

from composer.core.composition import Composition
from composer.core.curves import PRESETS, Curve
from composer.core.errors import ComposerError
from composer.ui.components import template
from composer.ui.components.weight_sliders import WeightSlider

# The highest multiplier that can be painted; a composition may hold more.
HIGHEST = 2
ANCHORS = len(PRESETS["all"])


def component(pool: Sequence[WeightSlider], layers: int, alpha: Mapping[str, np.ndarray]) -> gr.HTML:
    """The painter without curves. Its value is what `value` makes. alpha: as for `alpha_curves`."""
    return template.component(
        "curves",
        value(Composition()),
        "curves",
        slots=slots(pool, ()),
        layers=layers,
        highest=HIGHEST,
        presets={name: list(anchors) for name, anchors in PRESETS.items()},
        alpha=alpha_curves(alpha),
    )


def value(composition: Composition) -> dict[str, object]:
    """The painter's value: the composition's curves and schedule."""
    whole = composition.as_dict()
    return {"curves": whole["curves"], "schedule": whole["schedule"]}


def slots(pool: Sequence[WeightSlider], added: Sequence[str | None]) -> list[dict[str, object]]:
    """For each slider its key, its adapters (two for a pair) and their colours. added: see is_shown."""
    shown = []
    for slot in pool:
        names = slot.adapters
        if slot.spare is not None:
            names = tuple(name for name in added[slot.spare : slot.spare + 1] if name)
        shown.append({"key": slot.key, "names": list(names), "colors": list(slot.colors)})
    return shown


def alpha_curves(alpha: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """For each adapter the preset "from KL": N times its fusion weight at each anchor's depth.

    alpha: each adapter's fusion weights [L]. A layer that gives all N the same share has 1.
    """
    shown = {}
    for name, own in alpha.items():
        depths = [round(place * (len(own) - 1) / (ANCHORS - 1)) for place in range(ANCHORS)]
        shown[name] = (own[depths] * len(alpha)).clip(0, HIGHEST).round(2).tolist()
    return shown


def read(given: object, loaded: Sequence[str]) -> dict[str, Mapping[str, object]]:
    """Curves and schedule from the browser, for Composition to check; those of 1 everywhere are left out.

    loaded: the adapters there are. Raises ComposerError for anything but an object.
    """
    whole = given if isinstance(given, Mapping) else {}
    curves, schedule = whole.get("curves"), whole.get("schedule")
    if not isinstance(curves, Mapping) or not isinstance(schedule, Mapping):
        raise ComposerError("The curves are broken; reload the page.")
    return {
        "curves": {name: own for name, own in curves.items() if name in loaded and not is_flat(own)},
        "schedule": {name: own for name, own in schedule.items() if name in loaded and own != [1, None]},
    }


def is_flat(curve: Curve | object) -> bool:
    """Whether a curve is 1 everywhere."""
    return isinstance(curve, list | tuple) and all(anchor == 1 for anchor in curve)

"""The live view: text and contribution map in one gr.HTML that draws on a canvas.

Only numbers and strings go to the browser, which puts every string in place with `textContent`.
Each map column carries its index, and a tail of earlier columns goes along with the new ones, so a
column that the browser skipped is repaired by the next message; the last message carries them all.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import gradio as gr
import numpy as np

from composer.core.catalog_types import AdapterSpec
from composer.core.results import Step
from composer.methods import Method
from composer.ui.components import template
from composer.ui.components.weight_sliders import safe_color

TAIL = 12
# Of no adapter of the catalog, and readable on white and on black.
MERGED_COLOR = "#a66a00"
FULL_SCALE = 65535


@dataclass(frozen=True)
class Status:
    """The status line under the text."""

    # idle, waiting, reading, writing, fusing, done, stopped or error.
    phase: str = "idle"
    message: str = ""
    tokens: int = 0
    per_second: float = 0.0
    first_ms: float = 0.0
    seed: int | None = None


def component(opening_view: dict[str, object]) -> gr.HTML:
    """The live view. opening_view: adapters (as `legend` gives them), layers and status of the empty view."""
    return template.component("live", opening_view, "live", ("live-data.js", "live-draw.js", "live-text.js"))


def merged(method: Method, name: str) -> dict[str, str]:
    """The legend entry of a merged adapter. name: as engine.resolve.lane_names gives it."""
    return {"name": name, "label": f"{method.label}, merged", "color": MERGED_COLOR}


def legend(adapters: Sequence[AdapterSpec]) -> list[dict[str, str]]:
    """Name, label and colour of each adapter."""
    return [
        {"name": each.name, "label": each.label or each.name, "color": safe_color(each.color)}
        for each in adapters
    ]


def column(step: Step) -> dict[str, object]:
    """One token's column: its index, where its text ends, and its [L, N] numbers.

    The numbers are 16-bit fractions of the column's own maximum, layer by layer, little-endian,
    base64: about 3 bytes a number on the wire and exact to 1/65535 of the maximum.
    """
    numbers = np.nan_to_num(np.asarray(step.contribution, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(numbers.max(initial=0.0))
    scaled = np.rint(numbers.clip(0) / peak * FULL_SCALE) if peak > 0 else np.zeros_like(numbers)
    return {
        "i": step.index,
        "end": len(step.text),
        "max": peak,
        "data": base64.b64encode(scaled.astype("<u2").tobytes()).decode("ascii"),
    }


def message(
    run: str,
    prompt: str,
    steps: Sequence[Step],
    adapters: Sequence[Mapping[str, str]],
    layers: int,
    status: Status,
    *,
    room: int,
    fresh: int | None = None,
) -> dict[str, object]:
    """The message to the browser: the whole text, and the last `fresh` columns plus a tail (None: all).

    room: how many tokens were requested; the map's column width follows from it.
    """
    start = 0 if fresh is None else max(0, len(steps) - fresh - TAIL)
    return {
        "run": run,
        "prompt": prompt,
        "text": steps[-1].text if steps else "",
        "layers": layers,
        "room": room,
        "adapters": list(adapters),
        "columns": [column(step) for step in steps[start:]],
        "count": len(steps),
        "status": asdict(status),
    }

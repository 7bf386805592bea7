"""A TextReading as the browser takes it: pushes, surprise, and the words that each token was drawn from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from composer.analysis.text_reading import TextReading
from composer.ui.components.next_words import LEAST, shown_piece

FALLBACK = "#888888"


def reading_view(
    reading: TextReading, legend: Mapping[str, Mapping[str, str]], weights: Mapping[str, float]
) -> dict[str, object]:
    """adapters [n], base and composed [T] in nats, push [T][n] in nats, words [T][K] of (text, base,
    composed, index of the adapter in use that pushes it most, or -1).

    legend: adapter name -> label and color. weights: those of the sliders; an opposite that a method
    subtracts has a push and colours no word.
    """
    in_use = np.array([bool(weights.get(name)) for name in reading.adapters], bool)  # [n]
    if not in_use.any():
        in_use[:] = True  # a merged adapter has no slider
    return {
        "adapters": [_shown(legend, name, used) for name, used in zip(reading.adapters, in_use, strict=True)],
        "base": _rounded(reading.attribution.base),
        "composed": _rounded(reading.attribution.composed),
        "push": _rounded(reading.attribution.raised.T),
        "words": [_words(reading, place, in_use) for place in range(len(reading.likeliest))],
    }


def _shown(legend: Mapping[str, Mapping[str, str]], name: str, used: bool) -> dict[str, object]:
    found = legend.get(name, {"label": name, "color": FALLBACK})
    return {"name": name, "label": found["label"], "color": found["color"], "used": bool(used)}


def _words(reading: TextReading, place: int, in_use: np.ndarray) -> list[list[object]]:
    push = np.where(in_use[:, None], reading.push[:, place], 0)  # [n, K]
    words = []
    for k, piece in enumerate(reading.pieces[place]):
        strongest = int(np.abs(push[:, k]).argmax()) if len(push) else -1
        if strongest >= 0 and abs(push[strongest, k]) < LEAST:
            strongest = -1
        share = (float(reading.base[place, k]), float(reading.composed[place, k]))
        words.append([shown_piece(piece), round(share[0], 5), round(share[1], 5), strongest])
    return words


def _rounded(values: np.ndarray) -> list:
    return np.round(np.asarray(values, np.float64), 3).tolist()

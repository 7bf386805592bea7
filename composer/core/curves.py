"""Weights that change over the layers and over the tokens: curves and schedules, as checked values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from composer.core.errors import ComposerError, check_int, check_number, quote_name

CURVE_RANGE = (-4.0, 4.0)
MOST_ANCHORS = 64
LAST_TOKEN = 4096
Curve = tuple[float, ...]
# First and last token, counted from 1; None: to the end.
Span = tuple[int, int | None]
# What the page offers and the command line takes by name.
PRESETS: Mapping[str, Curve] = {
    "all": (1, 1, 1, 1, 1, 1, 1, 1, 1),
    "early": (1, 1, 1, 0.5, 0, 0, 0, 0, 0),
    "middle": (0, 0, 0.5, 1, 1, 1, 0.5, 0, 0),
    "late": (0, 0, 0, 0, 0, 0.5, 1, 1, 1),
    "rising": (0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1),
    "falling": (1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0),
}


def check_curves(curves: object) -> Mapping[str, Curve]:
    """Curves by adapter: multipliers at evenly spaced depths, the first layer's first.

    Raises ComposerError for anything but lists of 1 to 64 numbers between -4 and 4.
    """
    checked: dict[str, Curve] = {}
    for name, anchors in _mapping(curves, "Curves", '{"sports": [0, 0.5, 1]}').items():
        subject = f"The curve of {quote_name(name)}"
        if not isinstance(anchors, list | tuple) or not 1 <= len(anchors) <= MOST_ANCHORS:
            raise ComposerError(f"{subject} must be a list of 1 to {MOST_ANCHORS} numbers.")
        checked[str(name)] = tuple(
            check_number(f"{subject}, each number,", each, *CURVE_RANGE) for each in anchors
        )
    return MappingProxyType(checked)


def check_schedule(schedule: object) -> Mapping[str, Span]:
    """Spans of tokens by adapter, each [first, last] with None for the end of the text.

    Raises ComposerError for anything else, and for a span that ends before it begins.
    """
    checked: dict[str, Span] = {}
    for name, span in _mapping(schedule, "A schedule", '{"sports": [10, 30]}').items():
        subject = f"The schedule of {quote_name(name)}"
        if not isinstance(span, list | tuple) or len(span) != 2:
            raise ComposerError(
                f"{subject} must be two token numbers, the first and the last, such as [10, 30]."
            )
        first = check_int(f"{subject}, the first token,", span[0], 1, LAST_TOKEN)
        last = None if span[1] is None else check_int(f"{subject}, the last token,", span[1], 1, LAST_TOKEN)
        if last is not None and last < first:
            raise ComposerError(f"{subject} ends before it begins; put the smaller token number first.")
        checked[str(name)] = (first, last)
    return MappingProxyType(checked)


def _mapping(value: object, subject: str, example: str) -> Mapping[object, object]:
    if not isinstance(value, Mapping):
        raise ComposerError(f"{subject} must be an object of adapters such as {example}.")
    if len(value) > 256:
        raise ComposerError(f"{subject} can name at most 256 adapters.")
    return value


def over_layers(anchors: Sequence[float], layers: int) -> np.ndarray:
    """[L] multipliers: the anchors at evenly spaced depths, and straight lines between them.

    A layer's depth is l / (L - 1), so that a curve means the same on bases of other depth.
    """
    if len(anchors) == 1 or layers == 1:
        return np.full(layers, float(anchors[0]))
    depths = np.linspace(0, 1, layers)
    return np.interp(depths, np.linspace(0, 1, len(anchors)), anchors)


def is_on(span: Span | None, token: int) -> bool:
    """Whether a span, or none, has the token in it. token: counted from 1."""
    return span is None or (span[0] <= token and (span[1] is None or token <= span[1]))


def changes(schedule: Mapping[str, Span]) -> frozenset[int]:
    """The numbers of sampled tokens after which the weights change."""
    ends = {last for _, last in schedule.values() if last is not None}
    return frozenset({first - 1 for first, _ in schedule.values() if first > 1} | ends)

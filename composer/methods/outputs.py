"""Static rules: the same gate in every layer, whatever the prompt."""

from __future__ import annotations

import numpy as np

from composer.methods.registry import Method, Question


def _sum(question: Question) -> np.ndarray:
    return np.tile(question.weights, (question.layers, 1))  # [L, N]


def _contrast(question: Question) -> np.ndarray:
    weights = question.weights.astype(np.float64)
    gate = weights.copy()
    for group in question.groups:
        for i in group:
            for j in group:
                if i != j:
                    gate[j] -= question.composition.contrast * weights[i] / (len(group) - 1)
    return np.tile(gate, (question.layers, 1))  # [L, N]


SUM = Method(
    name="sum",
    label="Sum of outputs",
    help="Adds every adapter's output, times its slider, at every layer.",
    source="Lorandi & Belz 2026, arXiv 2605.12345 (known from its abstract)",
    rule=_sum,
)

CONTRAST = Method(
    name="contrast",
    label="Contrast",
    help="Sum, minus the opposites of what you ask for: the domain they share cancels, the attribute stays.",
    source="this project",
    rule=_contrast,
    dials=("contrast",),
)

"""Rules on the adapters' outputs that treat every prompt alike, but for the balance of their sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from composer.methods.base import GateInputs, Method

LORANDI = "Lorandi & Belz 2026, arXiv 2605.12345 (known from its abstract)"
# A whisper is turned up no further: an adapter that hardly touches a layer would be all noise there.
MAX_GAIN = 4.0


def weighted_sum(question: GateInputs) -> np.ndarray:
    """gate = w_i in every layer, [L, N]."""
    return np.tile(question.weights, (question.layers, 1))  # [L, N]


def _average(question: GateInputs) -> np.ndarray:
    return weighted_sum(question) / max(int(question.part.sum()), 1)  # [L, N]


def _static(question: GateInputs) -> np.ndarray:
    total = np.abs(question.weights).sum()
    return weighted_sum(question) / (total if total > 0 else 1.0)  # [L, N]


def _balanced(question: GateInputs) -> np.ndarray:
    """gate = w_i m / c_i: c_i the adapter's contribution alone, m the mean over those that have one."""
    share = np.where(question.part, question.prompt.contribution.astype(np.float64), 0.0)  # [L, N]
    heard = np.maximum((share > 0).sum(axis=1, keepdims=True), 1)  # [L, 1]
    mean = share.sum(axis=1, keepdims=True) / heard  # [L, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(share > 0, np.minimum(mean / share, MAX_GAIN), 1.0)
    return question.weights * factor  # [L, N]


def subtract_opposites(gates: np.ndarray, groups: Sequence[Sequence[int]], c: float) -> np.ndarray:
    """gates [L, N] with gate_j -= c gate_i / (K - 1) for every i and the other K - 1 of its group."""
    result = gates.astype(np.float64)
    for group in groups:
        for i in group:
            for j in group:
                if i != j:
                    result[:, j] -= c * gates[:, i] / (len(group) - 1)
    return result


def _contrast(question: GateInputs) -> np.ndarray:
    return subtract_opposites(weighted_sum(question), question.groups, question.composition.contrast)


SUM = Method(
    name="sum",
    label="Sum of outputs",
    help="Adds every adapter's output, times its slider, at every layer.",
    source=f"{LORANDI}; that it is done at every layer is our reading",
    rule=weighted_sum,
)

CONTRAST = Method(
    name="contrast",
    label="Contrast",
    help="Sum, minus the opposites of what you ask for: the domain they share cancels, the attribute stays.",
    source="this project",
    rule=_contrast,
    parameters=("contrast",),
)

AVERAGE = Method(
    name="average",
    label="Average of outputs",
    help="Sum, divided by how many adapters take part: the same direction at 1/N of the strength.",
    source=f"{LORANDI}; the average of the deltas is one reading of its WeightsAverage",
    rule=_average,
)

STATIC = Method(
    name="static",
    label="Static fusion",
    help="Sum, with the sliders scaled so that their sizes add up to 1.",
    source="the static fusion that qa-FLoRA compares with, arXiv 2512.11366 (known second-hand)",
    rule=_static,
)

BALANCED = Method(
    name="balanced",
    label="Norm-balanced sum",
    help="Sum, with every adapter made equally loud in every layer on your prompt's last token.",
    source="this project",
    rule=_balanced,
    prompt_stats=("contribution",),
)

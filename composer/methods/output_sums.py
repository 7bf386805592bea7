"""Methods that add the adapters' outputs, with gates that do not depend on what the prompt says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from composer.methods.base import GateInputs, gate_method

LORANDI = "Lorandi & Belz 2026, arXiv 2605.12345 (known from its abstract)"
# An adapter that hardly changes a layer is amplified no further: what it has there is noise.
MAX_GAIN = 4.0


def weighted_sum(inputs: GateInputs) -> np.ndarray:
    """g_i = w_i in every layer, [L, N]."""
    return np.tile(inputs.weights, (inputs.layers, 1))  # [L, N]


def subtract_opposites(gates: np.ndarray, groups: Sequence[Sequence[int]], c: float) -> np.ndarray:
    """Gates [L, N] with g_j -= c g_i / (K - 1) for every i and the other K - 1 members j of its group."""
    result = gates.astype(np.float64)
    for group in groups:
        for i in group:
            for j in group:
                if i != j:
                    result[:, j] -= c * gates[:, i] / (len(group) - 1)
    return result


SUM = gate_method(
    name="sum",
    label="Sum of outputs",
    help="Adds every adapter's output, times its slider, at every layer.",
    formula="W0 x + Σ g_i s_i B_i A_i x, g_i = strength · w_i",
    source=f"{LORANDI}; that it is done at every layer is our reading",
)(weighted_sum)


@gate_method(
    name="contrast",
    label="Contrast",
    help="Sum, minus the opposites of what you ask for: the domain they share cancels, the attribute stays.",
    formula="g_i += w_i; g_j -= c w_i / (K-1) for the K-1 opposites j of i",
    source="this project; of one pair at c = 1 it is contrastive weight steering, arXiv 2511.05408 (known "
    "from its abstract)",
    parameters=("contrast",),
)
def CONTRAST(inputs: GateInputs) -> np.ndarray:
    return subtract_opposites(weighted_sum(inputs), inputs.groups, inputs.composition.contrast)


@gate_method(
    name="average",
    label="Average of outputs",
    help="Sum, divided by the number of adapters with a weight: the same direction at 1/N of the strength.",
    formula="the sum, divided by N",
    source=f"{LORANDI}; the average of the deltas is one reading of its WeightsAverage",
)
def AVERAGE(inputs: GateInputs) -> np.ndarray:
    return weighted_sum(inputs) / max(int(inputs.active.sum()), 1)  # [L, N]


@gate_method(
    name="static",
    label="Static fusion",
    help="Sum, with the weights scaled so that their sizes add up to 1.",
    formula="the sum with Σ |w_i| = 1",
    source="the static fusion that qa-FLoRA compares with, arXiv 2512.11366 (known second-hand)",
)
def STATIC(inputs: GateInputs) -> np.ndarray:
    total = np.abs(inputs.weights).sum()
    return weighted_sum(inputs) / (total if total > 0 else 1.0)  # [L, N]


@gate_method(
    name="balanced",
    label="Norm-balanced sum",
    help="Sum, with every adapter's contribution made equal in every layer, on your prompt's last token.",
    formula="g_i = w_i m / c_i, c_i the contribution of i alone, m their mean; at most 4 times w_i",
    source="this project",
    prompt_stats=("contribution",),
)
def BALANCED(inputs: GateInputs) -> np.ndarray:
    measured = inputs.prompt.contribution
    assert measured is not None
    share = np.where(inputs.active, measured.astype(np.float64), 0.0)  # [L, N]
    count = np.maximum((share > 0).sum(axis=1, keepdims=True), 1)  # [L, 1]
    mean = share.sum(axis=1, keepdims=True) / count  # [L, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(share > 0, np.minimum(mean / share, MAX_GAIN), 1.0)
    return inputs.weights * factor  # [L, N]

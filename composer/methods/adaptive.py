"""Methods that weight the adapters by the prompt, per layer. Nothing is trained."""

from __future__ import annotations

import numpy as np

from composer.core.results import UNDECIDED, Fusion
from composer.methods.base import GateInputs, gate_method
from composer.methods.output_sums import subtract_opposites

QA_FLORA = "Shukla et al., qa-FLoRA, AAAI 2026, arXiv 2512.11366 (formulas known second-hand)"
AS_PUBLISHED = "as published: scale 'shares of 1', no final norm"


def fuse(kl: np.ndarray, active: np.ndarray | None = None) -> Fusion:
    """Fusion weights from divergences: alpha[l, i] = kl[l, i] / sum_j kl[l, j], a plain ratio.

    kl: [L, N] nats. active: [N] bool, the adapters that share the weight (None: all); the others get alpha 0.
    Layers in which no adapter moved the lens (sum below 1e-8) give all active ones the same alpha.
    """
    active = np.ones(kl.shape[1], bool) if active is None else active
    count = max(int(active.sum()), 1)
    own = np.where(active, kl.astype(np.float64), 0.0)  # [L, N]
    total = own.sum(axis=1, keepdims=True)  # [L, 1]
    alpha = np.where(total < UNDECIDED, active / count, own / np.maximum(total, UNDECIDED))
    return Fusion(kl.astype(np.float32), alpha.astype(np.float32))


def shared(inputs: GateInputs, measure: np.ndarray | None) -> np.ndarray:
    """Gates w_i ((1 - t) + t * scale * alpha_i), t the blend, [L, N].

    measure: [L, N], what alpha is the ratio of; adapters with weight 0 have no share of it.
    """
    assert measure is not None
    alpha = fuse(measure, inputs.active).alpha
    factor = alpha * inputs.active.sum() if inputs.composition.scale == "unit" else alpha
    blend = inputs.composition.blend
    return inputs.weights * ((1 - blend) + blend * factor)  # [L, N]


def kl_gates(inputs: GateInputs) -> np.ndarray:
    """Shares by divergence, blended with the plain sum; [L, N]."""
    return shared(inputs, inputs.prompt.kl)


KL = gate_method(
    name="kl",
    label="KL fusion (qa-FLoRA)",
    help="Per layer, the adapter that changes the model's answer to your prompt most gets the largest share.",
    formula="kl_i = KL(softmax(lens h) ‖ softmax(lens h_i)), α_i = kl_i / Σ kl_j, per layer, at the prompt's "
    "last token; g_i = w_i ((1-t) + t·N·α_i) (unit) or w_i ((1-t) + t·α_i) (paper)",
    source=f"{QA_FLORA}; {AS_PUBLISHED}",
    family="Prompt decides",
    parameters=("blend", "scale", "norm", "tokens", "live"),
    prompt_stats=("kl",),
)(kl_gates)


@gate_method(
    name="kl-contrast",
    label="KL fusion, contrasted",
    help="KL fusion's shares, minus the opposites of what you ask for.",
    formula="KL fusion's gates, then contrast's subtraction, layer by layer",
    source=f"this project, on {QA_FLORA}",
    family="Prompt decides",
    parameters=("blend", "scale", "contrast", "norm", "tokens", "live"),
    prompt_stats=("kl",),
)
def KL_CONTRAST(inputs: GateInputs) -> np.ndarray:
    return subtract_opposites(kl_gates(inputs), inputs.groups, inputs.composition.contrast)


@gate_method(
    name="cosine",
    label="Cosine fusion",
    help="As KL fusion, but by how far each adapter turns the hidden state: no unembedding is computed.",
    formula="as KL fusion, with 1 - cos(h, h_i) in the place of kl_i",
    source=f"an ablation of {QA_FLORA}, where it ties with KL",
    family="Prompt decides",
    parameters=("blend", "scale", "live"),
    prompt_stats=("distance",),
)
def COSINE(inputs: GateInputs) -> np.ndarray:
    return shared(inputs, inputs.prompt.distance)


@gate_method(
    name="logo",
    label="LoGo (norms)",
    help="One share per adapter in all layers: the size of its output at the last layer's query projection.",
    formula="as KL fusion, with ‖s_i B_i A_i x‖ in the place of kl_i, x the base's input of the last query "
    "projection, the same in all layers",
    source="LoRA on the Go, ACL 2026, arXiv 2511.07129 (from its authors' released code; here x is read "
    "with no adapter on, and all adapters with a weight are kept)",
    family="Prompt decides",
    parameters=("blend", "scale", "live"),
    prompt_stats=("query_norm",),
)
def LOGO(inputs: GateInputs) -> np.ndarray:
    measured = inputs.prompt.query_norm
    assert measured is not None
    return shared(inputs, np.tile(measured, (inputs.layers, 1)))

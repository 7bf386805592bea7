"""Query-adaptive rules: the prompt decides who counts, and where. Nothing is trained."""

from __future__ import annotations

import numpy as np

from composer.core.results import UNDECIDED, Fusion
from composer.methods.base import GateInputs, Method
from composer.methods.output_sums import subtract_opposites

QA_FLORA = "Shukla et al., qa-FLoRA, AAAI 2026, arXiv 2512.11366 (formulas known second-hand)"
AS_PUBLISHED = "as published: scale 'shares of 1', no final norm"


def fuse(kl: np.ndarray, taking_part: np.ndarray | None = None) -> Fusion:
    """Fusion weights from divergences: alpha[l, i] = kl[l, i] / sum_j kl[l, j], a plain ratio.

    kl: [L, N] nats. taking_part: [N] bool, the adapters that share the weight; the others get alpha 0.
    Where nobody taking part moved the lens (sum below 1e-8) all who take part get the same alpha.
    """
    taking_part = np.ones(kl.shape[1], bool) if taking_part is None else taking_part
    count = max(int(taking_part.sum()), 1)
    own = np.where(taking_part, kl.astype(np.float64), 0.0)  # [L, N]
    total = own.sum(axis=1, keepdims=True)  # [L, 1]
    alpha = np.where(total < UNDECIDED, taking_part / count, own / np.maximum(total, UNDECIDED))
    return Fusion(kl.astype(np.float32), alpha.astype(np.float32))


def _shared(question: GateInputs, measure: np.ndarray) -> np.ndarray:
    """gate = w_i ((1 - t) + t * scale * alpha_i), t = blend; adapters at weight 0 take no part in alpha.

    measure: [L, N], what alpha is the plain ratio of.
    """
    alpha = fuse(measure, question.part).alpha
    factor = alpha * question.part.sum() if question.composition.scale == "unit" else alpha
    blend = question.composition.blend
    return question.weights * ((1 - blend) + blend * factor)  # [L, N]


def kl_gates(question: GateInputs) -> np.ndarray:
    """Shares by divergence, blended with the plain sum; [L, N]."""
    return _shared(question, question.prompt.kl)


def _kl_contrast(question: GateInputs) -> np.ndarray:
    return subtract_opposites(kl_gates(question), question.groups, question.composition.contrast)


def _cosine(question: GateInputs) -> np.ndarray:
    return _shared(question, question.prompt.distance)


def _logo(question: GateInputs) -> np.ndarray:
    return _shared(question, np.tile(question.prompt.query_norm, (question.layers, 1)))


KL = Method(
    name="kl",
    label="KL fusion (qa-FLoRA)",
    help="Per layer, the adapter that changes the model's answer to your prompt most gets the largest share.",
    family="Prompt decides",
    source=f"{QA_FLORA}; {AS_PUBLISHED}",
    rule=kl_gates,
    parameters=("blend", "scale", "norm", "tokens", "live"),
    prompt_stats=("kl",),
)

KL_CONTRAST = Method(
    name="kl-contrast",
    label="KL fusion, contrasted",
    help="KL fusion's shares, minus the opposites of what you ask for.",
    family="Prompt decides",
    source=f"this project, on {QA_FLORA}",
    rule=_kl_contrast,
    parameters=("blend", "scale", "contrast", "norm", "tokens", "live"),
    prompt_stats=("kl",),
)

COSINE = Method(
    name="cosine",
    label="Cosine fusion",
    help="As KL fusion, but by how far each adapter turns the hidden state: no unembedding is read.",
    family="Prompt decides",
    source=f"an ablation of {QA_FLORA}, where it ties with KL",
    rule=_cosine,
    parameters=("blend", "scale", "live"),
    prompt_stats=("distance",),
)

LOGO = Method(
    name="logo",
    label="LoGo (norms)",
    help="One share per adapter in all layers: how loud it is in the last layer's query projection.",
    family="Prompt decides",
    source="LoRA on the Go, ACL 2026, arXiv 2511.07129 (from its authors' released code; here the "
    "probe reads what the projection itself reads, with no adapter on, and all that take part are kept)",
    rule=_logo,
    parameters=("blend", "scale", "live"),
    prompt_stats=("query_norm",),
)

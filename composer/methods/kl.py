"""KL fusion (qa-FLoRA, arXiv 2512.11366, known second-hand): the prompt decides who counts in which layer."""

from __future__ import annotations

import numpy as np

from composer.methods.registry import Method, Question
from composer.spec import UNDECIDED, Fusion


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


def _kl(question: Question) -> np.ndarray:
    """gate = w_i ((1 - t) + t * scale * alpha_i), t = blend; adapters at weight 0 take no part in alpha."""
    taking_part = question.weights != 0
    alpha = fuse(question.kl, taking_part).alpha
    factor = alpha * taking_part.sum() if question.composition.scale == "unit" else alpha
    blend = question.composition.blend
    return question.weights * ((1 - blend) + blend * factor)  # [L, N]


KL = Method(
    name="kl",
    label="KL fusion (qa-FLoRA)",
    help="Per layer, the adapter that changes the model's answer to your prompt most gets the largest share.",
    source="Shukla et al., qa-FLoRA, AAAI 2026, arXiv 2512.11366 (formulas known second-hand)",
    rule=_kl,
    dials=("blend", "scale"),
    needs_kl=True,
)

"""The logit lens: what the model would say if it stopped after a layer, and how far two such answers are."""

from __future__ import annotations

import torch
from torch import nn

from composer.core.errors import ComposerError, sanitize
from composer.model.runtime.llama.fused_linear import BaseWeights, fuse_linears

# Hidden states unembedded at once: many enough for one efficient product, few enough to hold their logits.
ROWS = 128
# A divergence that stands for an infinite one, in nats: a shared sum of several of them is still finite.
FARTHEST = 1e30
FINAL_NORMS = ("norm", "final_layer_norm", "ln_f", "final_layernorm", "norm_f")


class Lens:
    """Unembedding of hidden states, with the final norm as an option (logit lens, nostalgebraist 2020)."""

    def __init__(self, model: nn.Module):
        body = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
        self._norm = next((getattr(body, name) for name in FINAL_NORMS if hasattr(body, name)), None)
        head = model.get_output_embeddings()
        if self._norm is None or head is None:
            family = sanitize(model.config.model_type, 40)
            raise ComposerError(
                f"This base is of the family {family}, whose final norm or unembedding was not found, so KL "
                "fusion cannot read it; choose a base of another family."
            )
        self._head = fuse_linears([head], base=BaseWeights.of(model))

    @torch.inference_mode()
    def log_probs(self, hidden: torch.Tensor, norm: bool) -> torch.Tensor:
        """[rows, d] un-normed hidden states -> [rows, V] float32 log-probabilities."""
        logits, _ = self._head(self._norm(hidden) if norm else hidden)
        return torch.log_softmax(logits.float(), dim=-1)

    @torch.inference_mode()
    def divergence(self, hidden: list[torch.Tensor], norm: bool) -> torch.Tensor:
        """KL(p || q_i) in nats for each layer, p from row 0 (the base) and q_i from row i.

        hidden: L tensors [1 + N, d]. Returns [L, N] float32, at most FARTHEST. A few layers at a time: enough
        rows that the unembedding is not read once a layer, and few enough that no [rows, L, V] tensor exists.
        """
        rows = len(hidden[0])
        run_inline = max(1, ROWS // rows)
        parts = []
        for start in range(0, len(hidden), run_inline):
            some = torch.cat(hidden[start : start + run_inline])  # [l * (1 + N), d]
            parts.append(_kl(self.log_probs(some, norm).unflatten(0, (-1, rows))))
        return torch.cat(parts)  # [L, N]


def _kl(log_probs: torch.Tensor) -> torch.Tensor:
    """[l, 1 + N, V], which it overwrites -> [l, N]."""
    p = log_probs[:, :1]  # [l, 1, V]
    q = log_probs[:, 1:]  # [l, N, V]
    apart = torch.sub(p, q, out=q)
    kl = torch.bmm(apart, p.exp().transpose(1, 2)).squeeze(-1)
    # Rounding can leave a tiny negative where p and q agree; a divergence has none. An adapter whose numbers
    # overflow is infinitely far from the base.
    return kl.nan_to_num_(nan=FARTHEST).clamp_(0, FARTHEST)

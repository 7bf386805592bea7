"""The logit lens: what the model would say if it stopped after a layer, and how far two such answers are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from composer.core.errors import ComposerError, sanitize
from composer.model.placement import is_spread
from composer.model.runtime.llama.fused_linear import BaseWeights, fuse_linears

# Hidden states unembedded at once: many enough for one efficient product, few enough to hold their logits.
ROWS = 128
# On a GPU: hidden states, and words of the vocabulary, unembedded at once; 32 MB of float32.
GPU_ROWS, GPU_WORDS = 512, 16384
# A divergence that stands for an infinite one, in nats: a shared sum of several of them is still finite.
FARTHEST = 1e30
FINAL_NORMS = ("norm", "final_layer_norm", "ln_f", "final_layernorm", "norm_f")


def final_norm(model: nn.Module) -> nn.Module | None:
    """The norm between the last layer and the unembedding; None where it was not found."""
    body = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    return next((getattr(body, name) for name in FINAL_NORMS if hasattr(body, name)), None)


class Lens:
    """Unembedding of hidden states, with the final norm as an option (logit lens, nostalgebraist 2020)."""

    def __init__(self, model: nn.Module):
        self._norm = final_norm(model)
        head = model.get_output_embeddings()
        if self._norm is None or head is None:
            family = sanitize(model.config.model_type, 40)
            raise ComposerError(
                f"This base is of the family {family}, whose final norm or unembedding was not found, so KL "
                "fusion cannot read it; choose a base of another family."
            )
        self._head = (
            _SpreadHead(head) if is_spread(model) else fuse_linears([head], base=BaseWeights.of(model))
        )
        # Which words can be unembedded apart from the others: those of a plain layer on a GPU. A CPU has a
        # packed copy of the whole, which is quicker.
        streams = type(head) is nn.Linear and head.weight.device.type == "cuda" and not is_spread(model)
        self._words: nn.Linear | None = head if streams else None

    @torch.inference_mode()
    def log_probs(self, hidden: torch.Tensor, norm: bool) -> torch.Tensor:
        """[rows, d] un-normed hidden states -> [rows, V] float32 log-probabilities."""
        logits, _ = self._head(self._norm(hidden) if norm else hidden)
        return torch.log_softmax(logits.to(hidden.device).float(), dim=-1)

    @torch.inference_mode()
    def divergence(self, hidden: list[torch.Tensor], norm: bool) -> torch.Tensor:
        """KL(p || q_i) in nats for each layer, p from row 0 (the base) and q_i from row i.

        hidden: L tensors [1 + N, d]. Returns [L, N] float32, at most FARTHEST. A few layers at a time: enough
        rows that the unembedding is not read once a layer, and few enough that no [rows, L, V] tensor exists.
        """
        rows = len(hidden[0])
        run_inline = max(1, (ROWS if self._words is None else GPU_ROWS) // rows)
        parts = []
        for start in range(0, len(hidden), run_inline):
            some = torch.cat(hidden[start : start + run_inline])  # [l * (1 + N), d]
            if self._words is None:
                parts.append(_kl(self.log_probs(some, norm).unflatten(0, (-1, rows))))
            else:
                parts.append(streamed_kl(self._norm(some) if norm else some, self._words, rows, GPU_WORDS))
        # Rounding can leave a tiny negative where p and q agree; a divergence has none. An adapter whose
        # numbers overflow is infinitely far from the base.
        return torch.cat(parts).nan_to_num_(nan=FARTHEST).clamp_(0, FARTHEST)  # [L, N]


class _SpreadHead:
    """The unembedding of a spread base, through its module: accelerate brings weights and x together."""

    def __init__(self, head: nn.Module):
        self._module = head

    def __call__(self, hidden: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self._module(hidden), None


def _kl(log_probs: torch.Tensor) -> torch.Tensor:
    """[l, 1 + N, V], which it overwrites -> [l, N]."""
    p = log_probs[:, :1]  # [l, 1, V]
    q = log_probs[:, 1:]  # [l, N, V]
    apart = torch.sub(p, q, out=q)
    return torch.bmm(apart, p.exp().transpose(1, 2)).squeeze(-1)


def streamed_kl(hidden: torch.Tensor, head: nn.Linear, rows: int, words: int) -> torch.Tensor:
    """[l * (1 + N), d] normed hidden states, `rows` = 1 + N of each layer -> [l, N] float32.

    The vocabulary is read `words` at a time, and no more logits than that exist at once.
    """
    sums: _Sums | None = None
    for start in range(0, head.out_features, words):
        some = slice(start, start + words)
        bias = None if head.bias is None else head.bias[some]
        logits = F.linear(hidden, head.weight[some], bias).float().unflatten(0, (-1, rows))
        part = _Sums.of(logits)
        sums = part if sums is None else sums.merged(part)
    assert sums is not None  # no head is without words
    return sums.kl().float()


class _Sums(NamedTuple):
    """What a part of the vocabulary adds to KL(p || q_i), p and q_i from the logits a and b_i; float64."""

    # The largest logit, max a and max b_i.
    top: torch.Tensor  # [l, 1 + N]
    # sum exp(a - max a), and of b_i.
    mass: torch.Tensor  # [l, 1 + N]
    # sum exp(a - max a) ((a - max a) - (b_i - max b_i)).
    apart: torch.Tensor  # [l, N]

    @classmethod
    def of(cls, logits: torch.Tensor) -> _Sums:
        """[l, 1 + N, C] float32, which it overwrites."""
        top = logits.amax(dim=-1)
        logits.sub_(top[..., None])
        a, b = logits[:, :1], logits[:, 1:]
        apart = (a - b).mul_(a.exp()).sum(dim=-1)
        return cls(top.double(), logits.exp_().sum(dim=-1).double(), apart.double())

    def merged(self, other: _Sums) -> _Sums:
        """Of both parts."""
        top = torch.maximum(self.top, other.top)
        here, there = self._under(top), other._under(top)
        return _Sums(top, here.mass + there.mass, here.apart + there.apart)

    def _under(self, top: torch.Tensor) -> _Sums:
        """The same sums with another largest logit."""
        lower = self.top - top  # [l, 1 + N]
        scale = lower.exp()
        apart = self.apart + self.mass[:, :1] * (lower[:, :1] - lower[:, 1:])
        return _Sums(top, self.mass * scale, apart * scale[:, :1])

    def kl(self) -> torch.Tensor:
        """[l, N]."""
        return self.apart / self.mass[:, :1] - self.mass[:, :1].log() + self.mass[:, 1:].log()

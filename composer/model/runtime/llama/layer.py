"""One decoder layer of Llama, and of the families that are built alike, as a function of tensors.

The function is the same for every layer, so that it is compiled once for all of them. Gates are tensors, so
other weights never cause a recompilation. It serves whole prompts and single tokens; only attention differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from composer.model.runtime.llama.fused_linear import LinearGroup

# From so many tokens on, a product per site is faster than one with zeros between the sites.
MANY = 64


@dataclass(frozen=True)
class Group:
    """Linear layers with the same input, and the bank's factors at them."""

    product: LinearGroup
    # Output features of each layer.
    widths: tuple[int, ...]
    # All sites' B with zeros between them, [d_out of the group, R]; None without or where each is apart.
    B: torch.Tensor | None = None
    # The group's span on its layer's part of Z.
    start: int = 0
    end: int = 0
    sites: tuple[SiteSlice, ...] = ()
    # Each site's own B, [d_out, R], where they are not joined.
    apart: tuple[torch.Tensor, ...] = ()

    @property
    def covered(self) -> tuple[tuple[int, int], ...]:
        """The columns of the group's output that belong to its sites, in as few spans as they make."""
        spans: list[tuple[int, int]] = []
        for site in self.sites:
            joined = bool(spans) and spans[-1][1] == site.left
            spans[-1:] = [(spans[-1][0], site.right)] if joined else [*spans[-1:], (site.left, site.right)]
        return tuple(spans)


class SiteSlice(NamedTuple):
    """A site's part of its group's B: rows [left, right), columns [top, bottom)."""

    left: int
    right: int
    top: int
    bottom: int


@dataclass(frozen=True)
class Layer:
    """A decoder layer under a bank. Norms are given as the factors that they multiply by."""

    qkv_proj: Group
    o_proj: Group
    gate_up_proj: Group
    down_proj: Group
    # Of what attention and the MLP read, [d].
    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    # Of each query and key head before rotation, [D]; both or neither.
    q_norm: torch.Tensor | None = None
    k_norm: torch.Tensor | None = None
    # Of what attention and the MLP return, before it is added to the hidden states, [d].
    post_attention_norm: torch.Tensor | None = None
    post_mlp_norm: torch.Tensor | None = None
    # Tokens that the layer attends to, the current one included; None: all.
    window: int | None = None
    # Which of the base's rotations it has.
    rope: int = 0

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.qkv_proj, self.o_proj, self.gate_up_proj, self.down_proj

    @property
    def kind(self) -> tuple:
        """What compiled code depends on. Layers of the same kind share their code."""
        groups = (
            (group.start, group.end, group.sites, None if group.B is None else tuple(group.B.shape))
            for group in self.groups
        )
        norms = (self.q_norm, self.k_norm, self.post_attention_norm, self.post_mlp_norm)
        return *groups, tuple(norm is not None for norm in norms), self.window is not None, self.rope


@dataclass(frozen=True)
class Shape:
    """What all layers of a base have in common: the sizes of attention, and how its numbers are made."""

    heads: int
    kv_heads: int
    # Features of a head.
    width: int
    # The norms' epsilon.
    eps: float
    # What products of queries and keys are multiplied by.
    scaling: float
    # Of the MLP's gate: "silu" or "gelu_tanh".
    activation: str = "silu"
    # What embeddings are multiplied by, as a number of the base's dtype.
    embedding_scale: float = 1.0
    # Whether norms multiply by their factor before their result is rounded to the base's dtype, or after.
    norm_in_float32: bool = False
    # The layers' different windows. Each has a mask of its own.
    windows: tuple[int | None, ...] = (None,)


# Rotated queries and keys, and values, of M tokens, [M, H + 2K, D] -> the attention output, [M, H D].
Attention = Callable[[torch.Tensor], torch.Tensor]

# z = x A^T of M tokens at a group, [M, R], and the group's start and end -> factors of its scales, [M, R].
TokenFactor = Callable[[torch.Tensor, int, int], torch.Tensor]


def run_layer(
    layer: Layer,
    shape: Shape,
    hidden: torch.Tensor,  # [M, d]
    rope_cos_sin: torch.Tensor,  # [2, M, H + 2K, D]
    scales: torch.Tensor,  # [M, Z of this layer]
    attention: Attention,
    telemetry_rows: torch.Tensor | None = None,  # [B]
    factor: TokenFactor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """M tokens through the layer: their new hidden states [M, d], and telemetry.

    telemetry_rows: the tokens of which z, [B, Z of this layer], and the layer's energy, [B, 1], are returned
    (None: all); see GateTelemetry. factor: for token-routed methods, else None.
    """
    coded: list[torch.Tensor] = [_of(scales[:, :0], telemetry_rows)]
    energy = torch.zeros_like(_of(hidden[:, :1], telemetry_rows), dtype=torch.float32)

    def through(group: Group, x: torch.Tensor) -> torch.Tensor:
        """W0 x + ((x A^T) * s) B^T for the group's layers, their outputs side by side."""
        nonlocal energy
        scale = scales[:, group.start : group.end]
        gated = bool(group.sites) and factor is None and group.product.gates
        out, z = group.product(x, scale) if gated else group.product(x)  # [M, d_out], [M, R]
        if not group.sites:
            return out
        if factor is not None:
            scale = scale * factor(z, group.start, group.end)
        if not gated:
            z = z * scale
        coded.append(_of(z, telemetry_rows))
        kept = _of(out, telemetry_rows)
        for left, right in group.covered:
            norm = torch.linalg.vector_norm(kept[:, left:right], dim=1, keepdim=True, dtype=torch.float32)
            energy = energy + norm.square()
        return add_lora(out, z, group)

    def apply_norm(x: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
        return x if factor is None else rms_norm(x, factor, shape.eps, shape.norm_in_float32)

    x = apply_norm(hidden, layer.attention_norm)
    heads = through(layer.qkv_proj, x).view(len(hidden), -1, shape.width)  # [M, H + 2K, D]
    if layer.q_norm is not None and layer.k_norm is not None:
        scored = shape.heads + shape.kv_heads
        factors = torch.cat([layer.q_norm.expand(shape.heads, -1), layer.k_norm.expand(shape.kv_heads, -1)])
        heads = torch.cat([apply_norm(heads[:, :scored], factors), heads[:, scored:]], dim=1)
    heads = torch.addcmul(heads * rope_cos_sin[0], heads.roll(shape.width // 2, -1), rope_cos_sin[1])
    hidden = hidden + apply_norm(through(layer.o_proj, attention(heads)), layer.post_attention_norm)
    gate, up = through(layer.gate_up_proj, apply_norm(hidden, layer.mlp_norm)).split(
        layer.gate_up_proj.widths, dim=1
    )
    gate = F.silu(gate) if shape.activation == "silu" else F.gelu(gate, approximate="tanh")
    hidden = hidden + apply_norm(through(layer.down_proj, gate * up), layer.post_mlp_norm)
    return hidden, torch.cat(coded, dim=1), energy


def _of(x: torch.Tensor, telemetry_rows: torch.Tensor | None) -> torch.Tensor:
    return x if telemetry_rows is None else x[telemetry_rows]


def add_lora(out: torch.Tensor, z: torch.Tensor, group: Group) -> torch.Tensor:
    """out + z B^T, [M, O] + [M, R] by [O, R].

    For few tokens one product that includes the zeros between the sites is fastest, for many a product per
    site, and so it is done where each site's B is apart, which takes half the memory. One token is passed as
    a batch of one: inductor turns that into a loop that is fused with its neighbours and spread over the
    threads, where it would call BLAS for a plain product.
    """
    B = group.B
    if B is None:
        for site, own in zip(group.sites, group.apart, strict=True):
            out[:, site.left : site.right].addmm_(z[:, site.top : site.bottom], own.t())
        return out
    if len(z) == 1:
        return out + torch.bmm(z[None], B.t()[None])[0].to(out.dtype)
    if out.dtype != B.dtype:
        return out + F.linear(z, B).to(out.dtype)
    if len(z) < MANY:
        return torch.addmm(out, z, B.t())
    for site in group.sites:
        place = out[:, site.left : site.right]
        place.addmm_(z[:, site.top : site.bottom], B[site.left : site.right, site.top : site.bottom].t())
    return out


def rms_norm(x: torch.Tensor, factor: torch.Tensor, eps: float, in_float32: bool = False) -> torch.Tensor:
    """transformers' RMSNorm over the last dimension in the fewest kernels; [..., d] -> [..., d].

    in_float32: whether the product with the factor is rounded to x's dtype (Gemma), or what is multiplied.
    """
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (scaled * factor).to(x.dtype) if in_float32 else factor * scaled.to(x.dtype)

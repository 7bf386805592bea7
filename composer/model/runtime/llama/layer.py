"""One decoder layer of the Llama family, spelled out as a function of tensors.

The same function for every layer, so that it can be compiled once for all of them; gates are tensors too,
and never a reason to compile again. It serves whole prompts and single tokens: what differs is attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from composer.model.runtime.llama.fused_linear import LinearGroup
from composer.model.runtime.llama.onednn_linear import packed_linear

# From so many tokens on, the zeros between a group's sites are worth going around.
MANY = 64


@dataclass(frozen=True)
class Group:
    """Linear layers with one input, and what a bank adds to them, its sites side by side.

    start, end: the group's span on its layer's part of Z. sites: where each site of the bank stands in it.
    B: None without such sites, else all of theirs with zeros between them. packed: of B, for
    packed_linear; None where oneDNN does not pack.
    """

    product: LinearGroup
    widths: tuple[int, ...]
    B: torch.Tensor | None = None  # [d_out of the group, R]
    start: int = 0
    end: int = 0
    sites: tuple[SiteSlice, ...] = ()
    packed: torch.Tensor | None = None

    @property
    def covered(self) -> tuple[tuple[int, int], ...]:
        """The columns of the group's output that belong to its sites, in as few spans as they make."""
        spans: list[tuple[int, int]] = []
        for site in self.sites:
            joined = bool(spans) and spans[-1][1] == site.left
            spans[-1:] = [(spans[-1][0], site.right)] if joined else [*spans[-1:], (site.left, site.right)]
        return tuple(spans)


class SiteSlice(NamedTuple):
    """A site in its group: rows [left, right) and columns [top, bottom) of the group's B."""

    left: int
    right: int
    top: int
    bottom: int


@dataclass(frozen=True)
class Layer:
    """What a decoder layer is made of under a bank. The norms' weights are [d]."""

    qkv_proj: Group
    o_proj: Group
    gate_up_proj: Group
    down_proj: Group
    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.qkv_proj, self.o_proj, self.gate_up_proj, self.down_proj

    @property
    def kind(self) -> tuple:
        """What compiled code depends on; layers of one kind run the same code."""
        return tuple(
            (group.start, group.end, group.sites, None if group.B is None else tuple(group.B.shape))
            for group in self.groups
        )


@dataclass(frozen=True)
class Shape:
    """heads, kv_heads: how many. width: of one. eps: the norms'."""

    heads: int
    kv_heads: int
    width: int
    eps: float


# [M, H + 2K, D] turned queries, turned keys and values of M tokens -> what attention gathers, [M, H D].
Attention = Callable[[torch.Tensor], torch.Tensor]

# z = x A^T of M tokens at a group, [M, R], and its start and end -> what multiplies its scales, [M, R].
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
    """M tokens, of whatever rows, through the layer: their new hidden states [M, d], and of the `noted` ones
    (None: of all) z, [B, Z of this layer], and the layer's energy, [B, 1], as in Reading.

    factor: of tokens that share out their gates themselves; None: no token does.
    """
    coded: list[torch.Tensor] = [_of(scales[:, :0], telemetry_rows)]
    energy = torch.zeros_like(_of(hidden[:, :1], telemetry_rows), dtype=torch.float32)

    def through(group: Group, x: torch.Tensor) -> torch.Tensor:
        """The gate at a group: W0 x + ((x A^T) * s) B^T, its layers' outputs side by side."""
        nonlocal energy
        out, z = group.product(x)  # [M, d_out], [M, R]
        if group.B is None:
            return out
        scale = scales[:, group.start : group.end]
        if factor is not None:
            scale = scale * factor(z, group.start, group.end)
        z = z * scale
        coded.append(_of(z, telemetry_rows))
        kept = _of(out, telemetry_rows)
        for left, right in group.covered:
            norm = torch.linalg.vector_norm(kept[:, left:right], dim=1, keepdim=True, dtype=torch.float32)
            energy = energy + norm.square()
        return add_lora(out, z, group)

    x = rms_norm(hidden, layer.attention_norm, shape.eps)
    heads = through(layer.qkv_proj, x).view(len(hidden), -1, shape.width)  # [M, H + 2K, D]
    heads = torch.addcmul(heads * rope_cos_sin[0], heads.roll(shape.width // 2, -1), rope_cos_sin[1])
    hidden = hidden + through(layer.o_proj, attention(heads))
    gate, up = through(layer.gate_up_proj, rms_norm(hidden, layer.mlp_norm, shape.eps)).split(
        layer.gate_up_proj.widths, dim=1
    )
    hidden = hidden + through(layer.down_proj, F.silu(gate) * up)
    return hidden, torch.cat(coded, dim=1), energy


def _of(x: torch.Tensor, telemetry_rows: torch.Tensor | None) -> torch.Tensor:
    return x if telemetry_rows is None else x[telemetry_rows]


def add_lora(out: torch.Tensor, z: torch.Tensor, group: Group) -> torch.Tensor:
    """out + z B^T, [M, O] + [M, R] by [O, R].

    Few tokens: one product, zeros between the sites and all, is quicker than one for each; many: it is not.
    One token goes as a batch of one, which inductor turns into a loop of its own, fused with what surrounds
    it and spread over the threads; for a plain product it calls BLAS.
    """
    B = group.B
    if len(z) == 1:
        return out + torch.bmm(z[None], B.t()[None])[0].to(out.dtype)
    if out.dtype != B.dtype:
        return out + F.linear(z, B).to(out.dtype)
    if len(z) < MANY:
        return torch.addmm(out, z, B.t()) if group.packed is None else out + packed_linear(z, group.packed)
    for site in group.sites:
        place = out[:, site.left : site.right]
        place.addmm_(z[:, site.top : site.bottom], B[site.left : site.right, site.top : site.bottom].t())
    return out


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """transformers' RMSNorm in the fewest kernels; [M, d] -> [M, d]."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * scaled.to(x.dtype)

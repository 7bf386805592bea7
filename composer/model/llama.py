"""The decoding pass for the Llama family, spelled out: about 25 kernels a layer and no module calls.

One token a row leaves so little arithmetic that the way through transformers' modules costs as much as the
weights do. The prompt still goes that way; this pass takes over after it and must agree with it, which the
tests hold it to. Every shape is fixed by the batch size and the reach of attention, so that the pass can be
compiled, or captured as a CUDA graph, and replayed under other gates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from composer.model.inject import GatedLinear, GatedModel
from composer.model.kv import KVCache, visible
from composer.model.layout import Layout, Reading, layer_energy
from composer.model.product import Product, product
from composer.model.step import Inputs

FAMILY = ("llama", "mistral", "qwen2")
# Linear layers that read the same input, in the order in which they run.
GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


@dataclass(frozen=True)
class _Group:
    """Layers with one input: their common product, each one's path and width."""

    product: Product
    paths: tuple[str, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class _Added:
    """What a bank adds to a group. A: the sites' A, stacked. parts: per layer of the group its B^T and its
    span of A's rows, or None where the bank has no such site. start, end: the group's span on Z."""

    A: torch.Tensor  # [R, d_in]
    parts: tuple[tuple[torch.Tensor, int, int] | None, ...]
    start: int
    end: int


@dataclass(frozen=True)
class _Layer:
    groups: tuple[_Group, ...]
    attention_norm: nn.Module
    mlp_norm: nn.Module


class _Table(NamedTuple):
    """What a bank adds, per layer and group. site_layer: each site's layer, [S] int64."""

    layout: Layout
    added: list[list[_Added | None]]
    site_layer: torch.Tensor


class _Under(NamedTuple):
    """scales: [B, Z]."""

    table: _Table
    scales: torch.Tensor


class LlamaPass:
    """See composer.model.step.Pass. Made once per base by `of`."""

    def __init__(self, model: GatedModel, weights: str):
        body, config = model.model.model, model.model.config
        self._model, self._config = model, config
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._width = body.layers[0].self_attn.head_dim
        self._embedding, self._norm, self._rotary = body.embed_tokens, body.norm, body.rotary_emb
        self._layers = [
            _Layer(
                tuple(_group(block, names, index, weights) for names in GROUPS),
                block.input_layernorm,
                block.post_attention_layernorm,
            )
            for index, block in enumerate(body.layers)
        ]
        self._head = product([model.model.lm_head], weights)
        self._turns: torch.Tensor | None = None
        self._table: _Table | None = None

    @staticmethod
    def fits(model: GatedModel) -> bool:
        """Whether the base is of the family, without the extras that this pass leaves out."""
        config = model.model.config
        rope = getattr(config, "rope_parameters", None) or {}
        return (
            config.model_type in FAMILY
            and getattr(config, "hidden_act", "") == "silu"
            and getattr(config, "sliding_window", None) is None
            and rope.get("rope_type", "default") in ("default", "linear", "llama3")
        )

    def prepare(self, layout: Layout, gates: torch.Tensor) -> _Under:
        if self._table is None or self._table.layout is not layout:
            added = [[_added(layout, group) for group in layer.groups] for layer in self._layers]
            layers = [self._model.layer_of[path] for path in layout.spans]
            site_layer = torch.tensor(layers, dtype=torch.int64, device=gates.device)
            self._table = _Table(layout, added, site_layer)
        return _Under(self._table, layout.scales(gates))

    @torch.no_grad()
    def __call__(self, under: _Under, inputs: Inputs, cache: KVCache) -> tuple[torch.Tensor, Reading | None]:
        tokens, positions, length = inputs
        table, scales = under
        mask = visible(positions, length, self._embedding.weight.dtype)
        turns = self._turn_table(cache)[:, positions]  # [2, B, H + 2K, D]
        logits, coded, norms = self._forward(
            table.added, tokens, positions, mask, turns, scales, cache.buffers
        )
        if coded is None:
            return logits, None
        return logits, Reading(coded, layer_energy(norms, table.site_layer, table.layout.layers))

    def _forward(self, table, tokens, positions, mask, turns, scales, buffers):
        """table: what the bank adds, per layer and group. tokens, positions [B]; mask [B, 1, 1, length];
        turns [2, B, H + 2K, D]; scales [B, Z]. Returns logits [B, V], z [B, Z] and |W0 x| [B, S]."""
        rows = torch.arange(len(tokens), device=tokens.device)
        coded: list[torch.Tensor] = []  # z of each group, [B, R]
        norms: list[torch.Tensor] = []  # |W0 x| of each site, [B]
        hidden = self._embedding(tokens)  # [B, d]
        for layer, added, buffer in zip(self._layers, table, buffers, strict=True):
            attend, close, widen, narrow = layer.groups

            def through(group: _Group, own: _Added | None, x: torch.Tensor) -> list[torch.Tensor]:
                return _through(group, own, x, scales, coded, norms)

            x = _normed(layer.attention_norm, hidden)
            heads = torch.cat(through(attend, added[0], x), dim=1).view(len(tokens), -1, self._width)
            # Values turn by nothing (cos 1, sin 0), so that one turn serves q, k and v.
            heads = torch.addcmul(
                heads * turns[0], heads.roll(self._width // 2, -1), turns[1]
            )  # [B, H + 2K, D]
            buffer[rows, :, positions] = heads[:, self._heads :]
            past = buffer[: len(tokens), :, : mask.shape[-1]]  # [B, 2K, length, D]
            # Queries that share a key head stand as its rows: no key is copied for them.
            queries = heads[:, : self._heads].reshape(len(tokens), self._kv_heads, -1, self._width)
            seen = F.scaled_dot_product_attention(
                queries, past[:, : self._kv_heads], past[:, self._kv_heads :], attn_mask=mask
            )  # [B, K, H / K, D]
            (out,) = through(close, added[1], seen.reshape(len(tokens), -1))
            hidden = hidden + out

            x = _normed(layer.mlp_norm, hidden)
            gate, up = through(widen, added[2], x)
            (out,) = through(narrow, added[3], F.silu(gate) * up)
            hidden = hidden + out
        logits = self._head(_normed(self._norm, hidden))
        return (logits, torch.cat(coded, dim=1), torch.stack(norms, dim=1)) if coded else (logits, None, None)

    def _turn_table(self, cache: KVCache) -> torch.Tensor:
        """[2, room, H + 2K, D]: each position's cos and signed sin, per head of the joint q, k, v product."""
        if self._turns is None or self._turns.shape[1] < cache.room:
            weight = self._embedding.weight
            places = torch.arange(cache.room, device=weight.device)[None]
            cos, sin = self._rotary(weight[:1], places)  # [1, room, D]
            sin = torch.cat([-sin[..., : self._width // 2], sin[..., self._width // 2 :]], dim=-1)
            turned = torch.stack([cos[0], sin[0]])[:, :, None]  # [2, room, 1, D]
            still = torch.stack([torch.ones_like(cos[0]), torch.zeros_like(sin[0])])[:, :, None]
            q_and_k = turned.expand(-1, -1, self._heads + self._kv_heads, -1)
            self._turns = torch.cat([q_and_k, still.expand(-1, -1, self._kv_heads, -1)], dim=2).contiguous()
        return self._turns


def _group(block: nn.Module, names: tuple[str, ...], index: int, weights: str) -> _Group:
    layers = [block.get_submodule(name) for name in names]
    bases = [layer.base if isinstance(layer, GatedLinear) else layer for layer in layers]
    return _Group(
        product(bases, weights),
        tuple(layer.path for layer in layers),
        tuple(base.out_features for base in bases),
    )


def _added(layout: Layout, group: _Group) -> _Added | None:
    spans = [layout.spans[path] for path in group.paths if path in layout.spans]
    if not spans:
        return None
    sites, start = layout.bank.sites, spans[0][0]
    parts = tuple(
        (sites[path].B.t(), layout.spans[path][0] - start, layout.spans[path][1] - start)
        if path in layout.spans
        else None
        for path in group.paths
    )
    stacked = [sites[path].A for path in group.paths if path in sites]
    A = stacked[0] if len(stacked) == 1 else torch.cat(stacked)
    return _Added(A, parts, start, spans[-1][1])


def _through(group, own, x, scales, coded, norms) -> list[torch.Tensor]:
    """The gate at a group: out = W0 x + ((x A^T) * s) B^T for each of its layers, [B, d_out] each."""
    outs = list(group.product(x).split(group.widths, dim=1))
    if own is None:
        return outs
    z = F.linear(x, own.A) * scales[:, own.start : own.end]  # [B, R]
    coded.append(z)
    for place, part in enumerate(own.parts):
        if part is not None:
            B, start, end = part
            norms.append(torch.linalg.vector_norm(outs[place], dim=-1, dtype=torch.float32))
            outs[place] = torch.addmm(outs[place], z[:, start:end], B)
    return outs


def _normed(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """transformers' RMSNorm in the fewest kernels."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * scaled.to(x.dtype)

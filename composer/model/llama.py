"""The decoding pass for the Llama family, spelled out: about 25 kernels a layer and no module calls.

One token a row leaves so little arithmetic that the way through transformers' modules costs as much as the
weights do. The prompt still goes that way; this pass takes over after it and must agree with it, which the
tests hold it to. A layer is one function of tensors, the same for every layer, so that it can be compiled
once for all of them; gates are tensors too, and never a reason to compile again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import torch
from torch.nn import functional as F

from composer.model.inject import GatedLinear, GatedModel
from composer.model.kv import ROOM, KVCache, visible
from composer.model.layout import Layout, Reading
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
class Group:
    """Layers with one input, and what a bank adds to them, its sites side by side.

    start, end: the group's span on its layer's part of Z. covered: the columns of the group's output that
    belong to sites of the bank. B: None without such sites; one product with zeros between the sites is
    quicker than one for each.
    """

    product: Product
    widths: tuple[int, ...]
    B: torch.Tensor | None = None  # [d_out of the group, R]
    start: int = 0
    end: int = 0
    covered: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Layer:
    """What a decoder layer is made of under a bank. The norms' weights are [d]."""

    attend: Group
    close: Group
    widen: Group
    narrow: Group
    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.attend, self.close, self.widen, self.narrow


@dataclass(frozen=True)
class Shape:
    """heads, kv_heads: how many. eps: the norms'."""

    heads: int
    kv_heads: int
    eps: float


@dataclass(frozen=True)
class Table:
    """The layers under a bank. spans: each layer's part of Z. kinds: what the compiled code depends on, a
    shape per layer; tables of the same kinds run the same code."""

    layout: Layout
    layers: tuple[Layer, ...]
    spans: tuple[tuple[int, int], ...]
    kinds: frozenset[tuple]


@dataclass(frozen=True)
class Under:
    """What a batch decodes under. flat: its scales, [B, Z]; scales: each layer's part of them."""

    table: Table
    flat: torch.Tensor
    scales: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, table: Table, flat: torch.Tensor) -> Under:
        return cls(table, flat, tuple(flat[:, start:end] for start, end in table.spans))


class LlamaPass:
    """See composer.model.step.Pass. Made once per base.

    compiled: a compiled `run_layer` for one row, and the kinds of layers it knows; anything else runs as it
    stands, so that nobody ever waits for a compiler.
    """

    def __init__(self, model: GatedModel, weights: str):
        body, config = model.model.model, model.model.config
        self.compiled: tuple[Callable, frozenset[tuple]] = (run_layer, frozenset())
        self._tabulating = Lock()
        self._model = model
        first = body.layers[0]
        self._shape = Shape(
            config.num_attention_heads, config.num_key_value_heads, first.input_layernorm.variance_epsilon
        )
        self._width = first.self_attn.head_dim
        self._embedding, self._rotary = body.embed_tokens.weight, body.rotary_emb
        self._norm = body.norm.weight
        self._blocks, self._weights = body.layers, weights
        self._head = product([model.model.lm_head], weights=weights)
        self._turns: torch.Tensor | None = None
        self._table: Table | None = None

    @property
    def layers(self) -> int:
        return len(self._blocks)

    def empty_buffer(self, cache: KVCache) -> torch.Tensor:
        """A layer's part of a cache, as the first prompt would make it."""
        return cache.zeros(2 * self._shape.kv_heads, self._width, self._embedding)

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

    def prepare(self, layout: Layout, gates: torch.Tensor) -> Under:
        return Under.of(self.table(layout), layout.scales(gates))

    def table(self, layout: Layout) -> Table:
        """The layers under a layout; made anew for every new bank, which takes a copy of the weights."""
        with self._tabulating:
            if self._table is None or self._table.layout is not layout:
                self._table = self._tabulate(layout)
            return self._table

    def __call__(self, under: Under, inputs: Inputs, cache: KVCache) -> tuple[torch.Tensor, Reading | None]:
        compiled, known = self.compiled
        fast = len(inputs.tokens) == 1 and cache.room == ROOM and under.table.kinds <= known
        return self.run(under, inputs, cache, compiled if fast else run_layer)

    @torch.no_grad()
    def run(
        self, under: Under, inputs: Inputs, cache: KVCache, layer_function: Callable
    ) -> tuple[torch.Tensor, Reading | None]:
        """The pass, with `layer_function` in the place of `run_layer`."""
        tokens, positions, length = inputs
        table, rows = under.table, torch.arange(len(tokens), device=tokens.device)
        mask = visible(positions, length, self._embedding.dtype)
        turns = self._turn_table(cache)[:, positions]  # [2, B, H + 2K, D]
        coded, norms = [], []
        hidden = F.embedding(tokens, self._embedding)  # [B, d]
        for layer, scales, buffer in zip(table.layers, under.scales, cache.buffers, strict=True):
            hidden, z, norm = layer_function(
                layer, self._shape, hidden, rows, positions, mask, turns, scales, buffer[: len(tokens)]
            )
            coded.append(z)
            norms.append(norm)
        logits, _ = self._head(normed(hidden, self._norm, self._shape.eps))
        if not table.layout.spans:
            return logits, None
        return logits, Reading(torch.cat(coded, dim=1), torch.cat(norms, dim=1).square())

    def _tabulate(self, layout: Layout) -> Table:
        layers, spans, end = [], [], 0
        for block in self._blocks:
            start = end
            groups = []
            for names in GROUPS:
                group = _group([block.get_submodule(name) for name in names], layout, start, self._weights)
                groups.append(group)
                end = max(end, start + group.end)
            layers.append(Layer(*groups, block.input_layernorm.weight, block.post_attention_layernorm.weight))
            spans.append((start, end))
        return Table(layout, tuple(layers), tuple(spans), frozenset(map(_kind, layers)))

    def _turn_table(self, cache: KVCache) -> torch.Tensor:
        """[2, room, H + 2K, D]: each position's cos and signed sin, per head of the joint q, k, v product."""
        if self._turns is None or self._turns.shape[1] < cache.room:
            shape, half = self._shape, self._width // 2
            places = torch.arange(cache.room, device=self._embedding.device)[None]
            cos, sin = (each[0] for each in self._rotary(self._embedding[:1], places))  # [room, D]
            sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=1)
            turned = torch.stack([cos, sin])[:, :, None]  # [2, room, 1, D]
            # Values turn by nothing, so that one turn serves q, k and v.
            still = torch.stack([torch.ones_like(cos), torch.zeros_like(sin)])[:, :, None]
            turned = turned.expand(-1, -1, shape.heads + shape.kv_heads, -1)
            self._turns = torch.cat([turned, still.expand(-1, -1, shape.kv_heads, -1)], dim=2).contiguous()
        return self._turns


def _kind(layer: Layer) -> tuple:
    return tuple(
        (group.start, group.end, group.covered, None if group.B is None else tuple(group.B.shape))
        for group in layer.groups
    )


def run_layer(
    layer: Layer,
    shape: Shape,
    hidden: torch.Tensor,  # [B, d]
    rows: torch.Tensor,  # [B]: 0, 1, ...
    positions: torch.Tensor,  # [B]
    mask: torch.Tensor,  # [B, 1, 1, length]
    turns: torch.Tensor,  # [2, B, H + 2K, D]
    scales: torch.Tensor,  # [B, Z of this layer]
    buffer: torch.Tensor,  # [B, 2K, room, D]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One decoder layer: the new hidden states [B, d], z [B, Z of this layer] and its |W0 x| [B, 1]."""
    count, width = hidden.shape[0], turns.shape[-1]
    coded: list[torch.Tensor] = [scales[:, :0]]
    raw: list[torch.Tensor] = [hidden[:, :0]]

    def through(group: Group, x: torch.Tensor) -> torch.Tensor:
        """The gate at a group: W0 x + ((x A^T) * s) B^T, its layers' outputs side by side."""
        out, z = group.product(x)  # [B, d_out], [B, R]
        if group.B is None:
            return out
        z = z * scales[:, group.start : group.end]
        coded.append(z)
        raw.extend(out[:, start:end] for start, end in group.covered)
        return out + times(z, group.B).to(out.dtype)

    x = normed(hidden, layer.attention_norm, shape.eps)
    heads = through(layer.attend, x).view(count, -1, width)  # [B, H + 2K, D]
    heads = torch.addcmul(heads * turns[0], heads.roll(width // 2, -1), turns[1])
    buffer[rows, :, positions] = heads[:, shape.heads :]
    past = buffer[:, :, : mask.shape[-1]]  # [B, 2K, length, D]
    # Queries that share a key head stand as its rows: no key is copied for them.
    queries = heads[:, : shape.heads].reshape(count, shape.kv_heads, -1, width)
    seen = F.scaled_dot_product_attention(
        queries, past[:, : shape.kv_heads], past[:, shape.kv_heads :], attn_mask=mask
    )  # [B, K, H / K, D]
    hidden = hidden + through(layer.close, seen.reshape(count, -1))

    gate, up = through(layer.widen, normed(hidden, layer.mlp_norm, shape.eps)).split(
        layer.widen.widths, dim=1
    )
    hidden = hidden + through(layer.narrow, F.silu(gate) * up)
    norm = torch.linalg.vector_norm(torch.cat(raw, dim=1), dim=1, keepdim=True, dtype=torch.float32)
    return hidden, torch.cat(coded, dim=1), norm


def times(z: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """z B^T, [B, R] by [O, R].

    One row goes as a batch of one, which inductor turns into a loop of its own, fused with what surrounds
    it and spread over the threads; for a plain product it calls BLAS.
    """
    return torch.bmm(z[None], B.t()[None])[0] if len(z) == 1 else F.linear(z, B)


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """transformers' RMSNorm in the fewest kernels; [B, d] -> [B, d]."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * scaled.to(x.dtype)


def _group(gated: list[GatedLinear], layout: Layout, origin: int, weights: str) -> Group:
    """The group of these layers under a bank; origin: where their decoder layer's part of Z begins."""
    bases, widths = [layer.base for layer in gated], tuple(layer.base.out_features for layer in gated)
    here = [(place, layer.path) for place, layer in enumerate(gated) if layer.path in layout.spans]
    if not here:
        return Group(product(bases, weights=weights), widths)
    sites, starts = layout.bank.sites, [sum(widths[:place]) for place in range(len(widths))]
    start, end = layout.spans[here[0][1]][0], layout.spans[here[-1][1]][1]
    B = sites[here[0][1]].B.new_zeros(sum(widths), end - start)  # [d_out, R]
    covered = []
    for place, path in here:
        top, bottom = layout.spans[path]
        left, right = starts[place], starts[place] + widths[place]
        B[left:right, top - start : bottom - start] = sites[path].B
        covered.append((left, right))
    A = torch.cat([sites[path].A for _, path in here])  # [R, d_in]
    return Group(product(bases, A, weights), widths, B, start - origin, end - origin, tuple(covered))

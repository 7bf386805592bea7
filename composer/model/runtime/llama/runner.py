"""The runner of Llama and its like (see families.py): about 25 kernels per layer and no module calls.

For one token per row the arithmetic is so small that the calls of transformers' modules take as long as
reading the weights, and a short prompt is not far from that. Its logits must equal theirs; see
composer.model.runtime.proof.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch.nn import functional as F

from composer.model.gated_model import GatedModel
from composer.model.rank_layout import GateTelemetry, Layout
from composer.model.runtime.kv_cache import LENGTH_MULTIPLE, KVCache, decode_mask
from composer.model.runtime.llama.families import blocks_of, norm_factor, rotary_tables, shape_of
from composer.model.runtime.llama.fused_linear import BaseWeights, LinearGroup, fuse_linears
from composer.model.runtime.llama.layer import MANY, Attention, Layer, Shape, TokenFactor, rms_norm, run_layer
from composer.model.runtime.llama.layer_table import DecodePlan, LayerTable, stack_layers
from composer.model.runtime.prefill import PackedPrompts, PrefillOutput
from composer.model.runtime.runner import Inputs
from composer.model.runtime.token_routing import RouterConfig, TokenRouter

# The kind of `next_logits`, beside the segments' kinds.
HEAD: tuple = ("head",)
# Tables of sets of adapters that are kept; each has a copy of their factors.
KEPT_TABLES = 4


class LlamaRunner:
    """See composer.model.runtime.runner.ModelRunner. Made once per base.

    compiled: `decode_layers` compiled, by the kind of segment and whether for one row or for fewer than MANY,
    and `next_logits` likewise, of the kind HEAD. Anything else runs uncompiled, so that no request waits for
    a compiler. joined: see LayerTable.of.
    """

    def __init__(self, model: GatedModel, weights: str, joined: bool = True):
        body = model.model.model
        self.compiled: Mapping[tuple[tuple, bool], Callable] = MappingProxyType({})
        self._tabulating = Lock()
        self._base = BaseWeights.of(model.model)
        self.model, self._weights, self._joined = model, weights, joined
        self.shape, self.blocks = shape_of(model), blocks_of(model)
        self.embedding = body.embed_tokens.weight
        self.norm = norm_factor(body.norm, self.shape.norm_in_float32)
        if weights != "apart":
            stack_layers(self.blocks, self._base)
        self.head = fuse_linears([model.model.lm_head], weights=weights, base=self._base)
        self._rope_tables: dict[int, torch.Tensor] = {}
        self._tables: OrderedDict[Layout, LayerTable] = OrderedDict()

    @property
    def layers(self) -> int:
        return len(self.blocks)

    def empty_buffer(self, cache: KVCache) -> torch.Tensor:
        """A layer's buffer of a cache, as the first prompt would make it."""
        return cache.zeros(2 * self.shape.kv_heads, self.shape.width, self.embedding)

    def prepare(
        self, layout: Layout, gates: torch.Tensor, routes: Sequence[RouterConfig | None] = ()
    ) -> DecodePlan:
        return DecodePlan.of(self.table(layout), layout.scales(gates), TokenRouter.of(layout, routes))

    def table(self, layout: Layout) -> LayerTable:
        """The layers under a layout; the last ones are kept. What is made of the base's weights stays."""
        with self._tabulating:
            if layout not in self._tables:
                self._tables[layout] = LayerTable.of(
                    self.blocks, layout, self._weights, self._base, self._joined
                )
            self._tables.move_to_end(layout)
            while len(self._tables) > KEPT_TABLES:
                self._tables.popitem(last=False)
            return self._tables[layout]

    def trial(self) -> LlamaRunner:
        """A runner that reads the modules' own weights, one product after another: nothing is packed.

        Its windows are those of the config at this moment.
        """
        return type(self)(self.model, "apart")

    # --- prompts -------------------------------------------------------------------------------

    @torch.no_grad()
    def read(
        self,
        layout: Layout,
        gates: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        unembed: bool = True,
        every: bool = False,
        routes: Sequence[RouterConfig | None] = (),
    ) -> PrefillOutput:
        pack = PackedPrompts.of(prompts, gates.device)
        plan = self.prepare(layout, gates, routes)
        ropes = self.rope_table(pack.width)[:, pack.positions].unbind(2)  # of [2, M, H + 2K, D]
        masks = {window: _causal_mask(pack, window) for window in self.shape.windows}
        kept, past, coded, energy = [], [], [], []
        hidden, factors = self._embed(pack.tokens), plan.factors(pack.row)  # [M, d]
        for layer, scales, factor in zip(plan.table.layers, plan.scales, factors, strict=True):
            keys, rope = _Causal(self.shape, pack, masks[layer.window]), ropes[layer.rope]
            hidden, z, own = run_layer(
                layer, self.shape, hidden, rope, scales[pack.row], keys, pack.last, factor
            )
            kept.append(pack.padded(hidden) if every else hidden[pack.last])
            past.append(keys.past)
            coded.append(z)
            energy.append(own)
        logits = self._logits(hidden[pack.last]) if unembed else None
        return PrefillOutput(logits, _telemetry(layout, coded, energy), kept, past, [0] * len(prompts))

    # --- one token a row -----------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self, plan: DecodePlan, inputs: Inputs, cache: KVCache
    ) -> tuple[torch.Tensor, GateTelemetry | None]:
        alone = len(inputs.tokens) == 1
        routed = plan.routing is not None
        compiled = (
            self.compiled
            if cache.max_seq_len == LENGTH_MULTIPLE and len(inputs.tokens) < MANY and not routed
            else {}
        )
        hidden, context = self.embed(inputs, cache.max_seq_len)
        buffers = [buffer[: len(hidden)] for buffer in cache.buffers]
        coded, energy, factors = [], [], plan.factors()
        for segment in plan.table.segments:
            run: DecodeLayers = compiled.get((segment.kind, alone), decode_layers)
            at = segment.at
            here = segment.layers, self.shape, hidden, context
            hidden, z, own = run(*here, plan.scales[at], tuple(buffers[at]), factors[at])
            coded.append(z)
            energy.append(own)
        logits = self._logits(hidden, compiled.get((HEAD, alone)))
        return logits, _telemetry(plan.table.layout, coded, energy)

    @torch.no_grad()
    def embed(self, inputs: Inputs, max_seq_len: int) -> tuple[torch.Tensor, PositionContext]:
        """The rows' embeddings, [B, d], and the position context of every layer."""
        tokens, positions, length = inputs
        dtype = self.embedding.dtype
        masks = [decode_mask(positions, length, dtype, window) for window in self.shape.windows]
        return self._embed(tokens), PositionContext(
            torch.arange(len(tokens), device=tokens.device),
            positions,
            masks[0] if len(masks) == 1 else torch.cat(masks, dim=1),
            self.rope_table(max_seq_len)[:, positions],
        )

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = F.embedding(tokens, self.embedding)
        return hidden if self.shape.embedding_scale == 1.0 else hidden * self.shape.embedding_scale

    def _logits(self, hidden: torch.Tensor, run: Callable[..., torch.Tensor] | None = None) -> torch.Tensor:
        return (run or next_logits)(hidden, self.norm, self.head, self.shape)

    def rope_table(self, max_seq_len: int) -> torch.Tensor:
        """[2, at least max_seq_len, rotations, H + 2K, D]: cos and signed sin of each position, per head."""
        max_seq_len = -(-max_seq_len // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        # One per size, and none is freed: CUDA graphs read it at its address.
        if max_seq_len not in self._rope_tables:
            places = torch.arange(max_seq_len, device=self.embedding.device)[None]
            rotations = [self._per_head(*each) for each in rotary_tables(self.model, places)]
            self._rope_tables[max_seq_len] = torch.stack(rotations, dim=2)
        return self._rope_tables[max_seq_len]

    def _per_head(self, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """[T, D] each -> [2, T, H + 2K, D]."""
        shape, half = self.shape, self.shape.width // 2
        sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=1)
        turned = torch.stack([cos, sin])[:, :, None]  # [2, T, 1, D]
        # Values are rotated by nothing, so that one product serves q, k and v.
        still = torch.stack([torch.ones_like(cos), torch.zeros_like(sin)])[:, :, None]
        turned = turned.expand(-1, -1, shape.heads + shape.kv_heads, -1)
        return torch.cat([turned, still.expand(-1, -1, shape.kv_heads, -1)], dim=2)


class PositionContext(NamedTuple):
    """The rows' positions, the same for every layer."""

    rows: torch.Tensor  # [B], 0, 1, ...
    positions: torch.Tensor  # [B]
    # A mask for each of Shape.windows, in their order.
    mask: torch.Tensor  # [B, windows, 1, length]
    # By Layer.rope.
    rope_cos_sin: torch.Tensor  # [2, B, rotations, H + 2K, D]


# Layers, shape, hidden [B, d], around, each layer's scales [B, Z of it], its buffer [B, 2K, room, D] and its
# factor (only None is ever compiled) -> as run_layer: hidden [B, d], z [B, Z of all these layers], energy
# [B, layers].
DecodeLayers = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def decode_layers(
    layers: Sequence[Layer],
    shape: Shape,
    hidden: torch.Tensor,
    context: PositionContext,
    scales: Sequence[torch.Tensor],
    buffers: Sequence[torch.Tensor],
    factors: Sequence[TokenFactor | None],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One token of each row through some layers, which write its keys and values; see DecodeLayers."""
    coded, energy = [], []
    masks, ropes = context.mask.split(1, dim=1), context.rope_cos_sin.unbind(2)
    for layer, scale, buffer, factor in zip(layers, scales, buffers, factors, strict=True):
        back = _looking_back(shape, context, masks[shape.windows.index(layer.window)], buffer)
        hidden, z, own = run_layer(layer, shape, hidden, ropes[layer.rope], scale, back, factor=factor)
        coded.append(z)
        energy.append(own)
    return hidden, torch.cat(coded, dim=1), torch.cat(energy, dim=1)


def next_logits(hidden: torch.Tensor, norm: torch.Tensor, head: LinearGroup, shape: Shape) -> torch.Tensor:
    """Hidden states after the last layer, [B, d] -> logits, [B, V]."""
    return head(rms_norm(hidden, norm, shape.eps, shape.norm_in_float32))[0]


def _looking_back(
    shape: Shape, context: PositionContext, mask: torch.Tensor, buffer: torch.Tensor
) -> Attention:
    """Attention of one token per row to its past in `buffer`, after its own keys and values are written.

    mask: the layer's, [B, 1, 1, length].
    """

    def attention(heads: torch.Tensor) -> torch.Tensor:
        buffer[context.rows, :, context.positions] = heads[:, shape.heads :]
        past = buffer[:, :, : mask.shape[-1]]  # [B, 2K, length, D]
        # Queries that share a key head are rows of one product: keys are not copied.
        queries = heads[:, : shape.heads].reshape(len(heads), shape.kv_heads, -1, shape.width)
        attention = decode_attention if torch.compiler.is_compiling() else F.scaled_dot_product_attention
        keys, values = past[:, : shape.kv_heads], past[:, shape.kv_heads :]
        seen = attention(queries, keys, values, attn_mask=mask, scale=shape.scaling)
        return seen.reshape(len(heads), -1)  # of [B, K, H / K, D]

    return attention


def decode_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, attn_mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """scaled_dot_product_attention, [B, K, G, D] to [B, K, T, D], as loops for the compiler to fuse.

    With so few queries they take half the time of the library's kernel, which is made for many.
    """
    scores = (queries[:, :, :, None] * keys[:, :, None]).sum(-1) * scale  # [B, K, G, T]
    shares = (scores + attn_mask).softmax(-1)
    return (shares[..., None] * values[:, :, None]).sum(-2)  # [B, K, G, D]


class _Causal:
    """Causal attention within prompts. past: their keys and values, [B, 2K, T, D].

    mask: which places each place sees, [T, T] bool; None: all before it.
    """

    def __init__(self, shape: Shape, pack: PackedPrompts, mask: torch.Tensor | None):
        self._shape, self._pack, self._mask = shape, pack, mask

    def __call__(self, heads: torch.Tensor) -> torch.Tensor:
        shape = self._shape
        both = self._pack.padded(heads).transpose(1, 2)  # [B, H + 2K, T, D]
        self.past = both[:, shape.heads :]
        # Padding comes after the prompt, so causal attention never reads it.
        seen = F.scaled_dot_product_attention(
            both[:, : shape.heads],
            self.past[:, : shape.kv_heads],
            self.past[:, shape.kv_heads :],
            attn_mask=self._mask,
            is_causal=self._mask is None,
            scale=shape.scaling,
            enable_gqa=shape.heads != shape.kv_heads,
        )  # [B, H, T, D]
        return self._pack.gather(seen.transpose(1, 2)).flatten(1)


def _causal_mask(pack: PackedPrompts, window: int | None) -> torch.Tensor | None:
    """The mask of prompts for _Causal; None where no prompt is longer than the window."""
    if window is None or pack.width <= window:
        return None
    seen = torch.ones(pack.width, pack.width, dtype=torch.bool, device=pack.tokens.device)
    return seen.tril().triu(1 - window)


def _telemetry(layout: Layout, coded: list[torch.Tensor], energy: list[torch.Tensor]) -> GateTelemetry | None:
    if not layout.spans:
        return None
    return GateTelemetry(torch.cat(coded, dim=1), torch.cat(energy, dim=1), layout)

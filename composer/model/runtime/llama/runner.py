"""The runner of the Llama family: about 25 kernels per layer and no module calls.

For one token per row the arithmetic is so small that the calls of transformers' modules take as long as
reading the weights, and a short prompt is not far from that. Its logits must equal theirs; see
composer.model.runtime.proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from threading import Lock
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch.nn import functional as F

from composer.model.gated_model import GatedModel
from composer.model.rank_layout import GateTelemetry, Layout
from composer.model.runtime.kv_cache import LENGTH_MULTIPLE, KVCache, decode_mask
from composer.model.runtime.llama.fused_linear import BaseWeights, fuse_linears
from composer.model.runtime.llama.layer import MANY, Attention, Layer, Shape, TokenFactor, rms_norm, run_layer
from composer.model.runtime.llama.layer_table import DecodePlan, LayerTable
from composer.model.runtime.prefill import PackedPrompts, PrefillOutput
from composer.model.runtime.runner import Inputs, TransformersRunner
from composer.model.runtime.token_routing import RouterConfig, TokenRouter

FAMILY = ("llama", "mistral", "qwen2")


class LlamaRunner:
    """See composer.model.runtime.runner.ModelRunner. Made once per base.

    compiled: `decode_layers` compiled, by the kind of segment and whether for one row or for fewer than MANY.
    Anything else runs uncompiled, so that no request waits for a compiler.
    """

    def __init__(self, model: GatedModel, weights: str):
        body, config = model.model.model, model.model.config
        self.compiled: Mapping[tuple[tuple, bool], DecodeLayers] = MappingProxyType({})
        self._tabulating = Lock()
        self._base = BaseWeights()
        self._model = model
        first = body.layers[0]
        self.shape = Shape(
            config.num_attention_heads,
            config.num_key_value_heads,
            first.self_attn.head_dim,
            first.input_layernorm.variance_epsilon,
        )
        self._embedding, self._rotary = body.embed_tokens.weight, body.rotary_emb
        self._norm = body.norm.weight
        self._blocks, self._weights = body.layers, weights
        # Prompts are read with the base's own weights, whatever decoding reads.
        self._modules = TransformersRunner(model) if weights != "same" else None
        self._head = fuse_linears([model.model.lm_head], weights=weights)
        self._rope_tables: dict[int, torch.Tensor] = {}
        self._table: LayerTable | None = None

    @property
    def layers(self) -> int:
        return len(self._blocks)

    def empty_buffer(self, cache: KVCache) -> torch.Tensor:
        """A layer's buffer of a cache, as the first prompt would make it."""
        return cache.zeros(2 * self.shape.kv_heads, self.shape.width, self._embedding)

    @staticmethod
    def fits(model: GatedModel) -> bool:
        """Whether the base is of the family, without the features that this runner does not implement."""
        config = model.model.config
        rope = getattr(config, "rope_parameters", None) or {}
        return (
            config.model_type in FAMILY
            and getattr(config, "hidden_act", "") == "silu"
            and getattr(config, "sliding_window", None) is None
            and rope.get("rope_type", "default") in ("default", "linear", "llama3")
        )

    def prepare(
        self, layout: Layout, gates: torch.Tensor, routes: Sequence[RouterConfig | None] = ()
    ) -> DecodePlan:
        return DecodePlan.of(self.table(layout), layout.scales(gates), TokenRouter.of(layout, routes))

    def table(self, layout: Layout) -> LayerTable:
        """The layers under a layout; made for every new bank. What is made of the base's weights stays."""
        with self._tabulating:
            if self._table is None or self._table.layout is not layout:
                self._table = LayerTable.of(self._blocks, layout, self._weights, self._base)
            return self._table

    def trial(self) -> LlamaRunner:
        """A runner that reads the modules' own weights, one product after another: nothing is packed."""
        other = copy(self)
        other._weights, other._table, other._tabulating, other._rope_tables = "apart", None, Lock(), {}
        other._head = fuse_linears([self._model.model.lm_head], weights="apart")
        return other

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
        if self._modules is not None:
            return self._modules.read(layout, gates, prompts, unembed, every, routes)
        pack = PackedPrompts.of(prompts, gates.device)
        plan = self.prepare(layout, gates, routes)
        rope_cos_sin = self._rope_table(pack.width)[:, pack.positions]  # [2, M, H + 2K, D]
        kept, past, coded, energy = [], [], [], []
        hidden = F.embedding(pack.tokens, self._embedding)  # [M, d]
        factors = plan.factors(pack.row)
        for layer, scales, factor in zip(plan.table.layers, plan.scales, factors, strict=True):
            keys = _Causal(self.shape, pack)
            hidden, z, own = run_layer(
                layer, self.shape, hidden, rope_cos_sin, scales[pack.row], keys, pack.last, factor
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
            run, at = compiled.get((segment.kind, alone), decode_layers), segment.at
            here = segment.layers, self.shape, hidden, context
            hidden, z, own = run(*here, plan.scales[at], tuple(buffers[at]), factors[at])
            coded.append(z)
            energy.append(own)
        return self._logits(hidden), _telemetry(plan.table.layout, coded, energy)

    @torch.no_grad()
    def embed(self, inputs: Inputs, max_seq_len: int) -> tuple[torch.Tensor, PositionContext]:
        """The rows' embeddings, [B, d], and the position context of every layer."""
        tokens, positions, length = inputs
        return F.embedding(tokens, self._embedding), PositionContext(
            torch.arange(len(tokens), device=tokens.device),
            positions,
            decode_mask(positions, length, self._embedding.dtype),
            self._rope_table(max_seq_len)[:, positions],
        )

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._head(rms_norm(hidden, self._norm, self.shape.eps))[0]

    def _rope_table(self, max_seq_len: int) -> torch.Tensor:
        """[2, at least max_seq_len, H + 2K, D]: cos and signed sin of each position, per head."""
        max_seq_len = -(-max_seq_len // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        # One per size, and none is freed: CUDA graphs read it at its address.
        if max_seq_len not in self._rope_tables:
            shape, half = self.shape, self.shape.width // 2
            places = torch.arange(max_seq_len, device=self._embedding.device)[None]
            cos, sin = (each[0] for each in self._rotary(self._embedding[:1], places))  # [room, D]
            sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=1)
            turned = torch.stack([cos, sin])[:, :, None]  # [2, room, 1, D]
            # Values are rotated by nothing, so that one product serves q, k and v.
            still = torch.stack([torch.ones_like(cos), torch.zeros_like(sin)])[:, :, None]
            turned = turned.expand(-1, -1, shape.heads + shape.kv_heads, -1)
            self._rope_tables[max_seq_len] = torch.cat(
                [turned, still.expand(-1, -1, shape.kv_heads, -1)], dim=2
            )
        return self._rope_tables[max_seq_len]


class PositionContext(NamedTuple):
    """The rows' positions, the same for every layer."""

    rows: torch.Tensor  # [B], 0, 1, ...
    positions: torch.Tensor  # [B]
    mask: torch.Tensor  # [B, 1, 1, length]
    rope_cos_sin: torch.Tensor  # [2, B, H + 2K, D]


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
    for layer, scale, buffer, factor in zip(layers, scales, buffers, factors, strict=True):
        back = _looking_back(shape, context, buffer)
        hidden, z, own = run_layer(layer, shape, hidden, context.rope_cos_sin, scale, back, factor=factor)
        coded.append(z)
        energy.append(own)
    return hidden, torch.cat(coded, dim=1), torch.cat(energy, dim=1)


def _looking_back(shape: Shape, context: PositionContext, buffer: torch.Tensor) -> Attention:
    """Attention of one token per row to its past in `buffer`, after its own keys and values are written."""

    def attention(heads: torch.Tensor) -> torch.Tensor:
        buffer[context.rows, :, context.positions] = heads[:, shape.heads :]
        past = buffer[:, :, : context.mask.shape[-1]]  # [B, 2K, length, D]
        # Queries that share a key head are rows of one product: keys are not copied.
        queries = heads[:, : shape.heads].reshape(len(heads), shape.kv_heads, -1, shape.width)
        attention = decode_attention if torch.compiler.is_compiling() else F.scaled_dot_product_attention
        seen = attention(
            queries, past[:, : shape.kv_heads], past[:, shape.kv_heads :], attn_mask=context.mask
        )
        return seen.reshape(len(heads), -1)  # of [B, K, H / K, D]

    return attention


def decode_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, attn_mask: torch.Tensor
) -> torch.Tensor:
    """scaled_dot_product_attention, [B, K, G, D] to [B, K, T, D], as loops for the compiler to fuse.

    With so few queries they take half the time of the library's kernel, which is made for many.
    """
    scores = (queries[:, :, :, None] * keys[:, :, None]).sum(-1) * keys.shape[-1] ** -0.5  # [B, K, G, T]
    shares = (scores + attn_mask).softmax(-1)
    return (shares[..., None] * values[:, :, None]).sum(-2)  # [B, K, G, D]


class _Causal:
    """Causal attention within prompts. past: their keys and values, [B, 2K, T, D]."""

    def __init__(self, shape: Shape, pack: PackedPrompts):
        self._shape, self._pack = shape, pack

    def __call__(self, heads: torch.Tensor) -> torch.Tensor:
        shape = self._shape
        both = self._pack.padded(heads).transpose(1, 2)  # [B, H + 2K, T, D]
        self.past = both[:, shape.heads :]
        # Padding comes after the prompt, so causal attention never reads it.
        seen = F.scaled_dot_product_attention(
            both[:, : shape.heads],
            self.past[:, : shape.kv_heads],
            self.past[:, shape.kv_heads :],
            is_causal=True,
            enable_gqa=shape.heads != shape.kv_heads,
        )  # [B, H, T, D]
        return self._pack.gather(seen.transpose(1, 2)).flatten(1)


def _telemetry(layout: Layout, coded: list[torch.Tensor], energy: list[torch.Tensor]) -> GateTelemetry | None:
    if not layout.spans:
        return None
    return GateTelemetry(torch.cat(coded, dim=1), torch.cat(energy, dim=1), layout)

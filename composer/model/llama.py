"""The pass for the Llama family, spelled out: about 25 kernels a layer and no module calls.

One token a row leaves so little arithmetic that the way through transformers' modules costs as much as the
weights do, and a short prompt is not far from that. It must agree with them, which the tests hold it to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import torch
from torch.nn import functional as F

from composer.model.inject import GatedModel
from composer.model.kv import ROOM, KVCache, visible
from composer.model.layer import Layer, Shape, normed, run_layer
from composer.model.layout import Layout, Reading
from composer.model.product import product
from composer.model.prompt import Packed, Read
from composer.model.step import Inputs, ModulePass
from composer.model.table import Table, Under

FAMILY = ("llama", "mistral", "qwen2")


class LlamaPass:
    """See composer.model.step.Pass. Made once per base.

    compiled: a compiled `decode_layer` for one row, and the kinds of layers it knows; anything else runs as
    it stands, so that nobody ever waits for a compiler.
    """

    def __init__(self, model: GatedModel, weights: str):
        body, config = model.model.model, model.model.config
        self.compiled: tuple[Callable, frozenset[tuple]] = (decode_layer, frozenset())
        self._tabulating = Lock()
        self._model = model
        first = body.layers[0]
        self._shape = Shape(
            config.num_attention_heads,
            config.num_key_value_heads,
            first.self_attn.head_dim,
            first.input_layernorm.variance_epsilon,
        )
        self._embedding, self._rotary = body.embed_tokens.weight, body.rotary_emb
        self._norm = body.norm.weight
        self._blocks, self._weights = body.layers, weights
        # Prompts are read with the base's own weights whatever decoding reads.
        self._modules = ModulePass(model) if weights != "same" else None
        self._head = product([model.model.lm_head], weights=weights)
        self._turns: dict[int, torch.Tensor] = {}
        self._table: Table | None = None

    @property
    def layers(self) -> int:
        return len(self._blocks)

    def empty_buffer(self, cache: KVCache) -> torch.Tensor:
        """A layer's part of a cache, as the first prompt would make it."""
        return cache.zeros(2 * self._shape.kv_heads, self._shape.width, self._embedding)

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
                self._table = Table.of(self._blocks, layout, self._weights)
            return self._table

    # --- prompts -------------------------------------------------------------------------------

    @torch.no_grad()
    def read(
        self, layout: Layout, gates: torch.Tensor, prompts: Sequence[Sequence[int]], unembed: bool = True
    ) -> Read:
        if self._modules is not None:
            return self._modules.read(layout, gates, prompts, unembed)
        pack = Packed.of(prompts, gates.device)
        under = self.prepare(layout, gates)
        turns = self._turn_table(pack.width)[:, pack.positions]  # [2, M, H + 2K, D]
        kept, past, coded, energy = [], [], [], []
        hidden = F.embedding(pack.tokens, self._embedding)  # [M, d]
        for layer, scales in zip(under.table.layers, under.scales, strict=True):
            keys = _Causal(self._shape, pack)
            hidden, z, own = run_layer(
                layer, self._shape, hidden, turns, scales[pack.row], keys, noted=pack.last
            )
            kept.append(hidden[pack.last])
            past.append(keys.past)
            coded.append(z)
            energy.append(own)
        logits = self._logits(kept[-1]) if unembed else None
        return Read(logits, _reading(layout, coded, energy), kept, past, [0] * len(prompts))

    # --- one token a row -----------------------------------------------------------------------

    def __call__(self, under: Under, inputs: Inputs, cache: KVCache) -> tuple[torch.Tensor, Reading | None]:
        compiled, known = self.compiled
        fast = len(inputs.tokens) == 1 and cache.room == ROOM and under.table.kinds <= known
        return self.run(under, inputs, cache, compiled if fast else decode_layer)

    @torch.no_grad()
    def run(
        self, under: Under, inputs: Inputs, cache: KVCache, layer_function: Callable
    ) -> tuple[torch.Tensor, Reading | None]:
        """The pass, with `layer_function` in the place of `decode_layer`."""
        tokens, positions, length = inputs
        rows = torch.arange(len(tokens), device=tokens.device)
        mask = visible(positions, length, self._embedding.dtype)
        turns = self._turn_table(cache.room)[:, positions]  # [2, B, H + 2K, D]
        coded, energy = [], []
        hidden = F.embedding(tokens, self._embedding)  # [B, d]
        for layer, scales, buffer in zip(under.table.layers, under.scales, cache.buffers, strict=True):
            hidden, z, own = layer_function(
                layer, self._shape, hidden, rows, positions, mask, turns, scales, buffer[: len(tokens)]
            )
            coded.append(z)
            energy.append(own)
        return self._logits(hidden), _reading(under.table.layout, coded, energy)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._head(normed(hidden, self._norm, self._shape.eps))[0]

    def _turn_table(self, room: int) -> torch.Tensor:
        """[2, room or more, H + 2K, D]: each position's cos and signed sin, per head of the joint product."""
        room = -(-room // ROOM) * ROOM
        # One a size, and none is given up: what was recorded with it reads it at its address.
        if room not in self._turns:
            shape, half = self._shape, self._shape.width // 2
            places = torch.arange(room, device=self._embedding.device)[None]
            cos, sin = (each[0] for each in self._rotary(self._embedding[:1], places))  # [room, D]
            sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=1)
            turned = torch.stack([cos, sin])[:, :, None]  # [2, room, 1, D]
            # Values turn by nothing, so that one turn serves q, k and v.
            still = torch.stack([torch.ones_like(cos), torch.zeros_like(sin)])[:, :, None]
            turned = turned.expand(-1, -1, shape.heads + shape.kv_heads, -1)
            self._turns[room] = torch.cat([turned, still.expand(-1, -1, shape.kv_heads, -1)], dim=2)
        return self._turns[room]


def decode_layer(
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
    """One token of each row through a layer, which sees the row's past and adds to it; as run_layer."""

    def attention(heads: torch.Tensor) -> torch.Tensor:
        buffer[rows, :, positions] = heads[:, shape.heads :]
        past = buffer[:, :, : mask.shape[-1]]  # [B, 2K, length, D]
        # Queries that share a key head stand as its rows: no key is copied for them.
        queries = heads[:, : shape.heads].reshape(len(heads), shape.kv_heads, -1, shape.width)
        seen = F.scaled_dot_product_attention(
            queries, past[:, : shape.kv_heads], past[:, shape.kv_heads :], attn_mask=mask
        )  # [B, K, H / K, D]
        return seen.reshape(len(heads), -1)

    return run_layer(layer, shape, hidden, turns, scales, attention)


class _Causal:
    """Attention among a prompt's own tokens. past: the keys and values that it saw, [B, 2K, T, D]."""

    def __init__(self, shape: Shape, pack: Packed):
        self._shape, self._pack = shape, pack

    def __call__(self, heads: torch.Tensor) -> torch.Tensor:
        shape = self._shape
        both = self._pack.spread(heads).transpose(1, 2)  # [B, H + 2K, T, D]
        self.past = both[:, shape.heads :]
        # Shorter prompts stand first in their rows, so looking back never meets what is no prompt.
        seen = F.scaled_dot_product_attention(
            both[:, : shape.heads],
            self.past[:, : shape.kv_heads],
            self.past[:, shape.kv_heads :],
            is_causal=True,
            enable_gqa=shape.heads != shape.kv_heads,
        )  # [B, H, T, D]
        return self._pack.gather(seen.transpose(1, 2)).flatten(1)


def _reading(layout: Layout, coded: list[torch.Tensor], energy: list[torch.Tensor]) -> Reading | None:
    if not layout.spans:
        return None
    return Reading(torch.cat(coded, dim=1), torch.cat(energy, dim=1))

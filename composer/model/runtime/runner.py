"""How a base is run: over whole prompts, and over a running batch with one token a row."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import NamedTuple, Protocol, TypeVar

import torch
from transformers import DynamicCache

from composer.model.gated_model import GateCall, GatedModel, TelemetryRecorder
from composer.model.rank_layout import GateTelemetry, Layout
from composer.model.runtime.kv_cache import KVCache, SlotCacheView, decode_mask
from composer.model.runtime.prefill import PrefillOutput
from composer.model.runtime.token_routing import RouterConfig, TokenRouter

SLIDING = "sliding_attention"

Plan = TypeVar("Plan")


class Inputs(NamedTuple):
    """tokens, positions: [B] int64, row b in slot b. length: how far attention looks, over every position."""

    tokens: torch.Tensor
    positions: torch.Tensor
    length: int


class ModelRunner(Protocol[Plan]):
    """A way to run a base. It belongs to the base and holds nothing of a batch, so that many may use it."""

    def read(
        self,
        layout: Layout,
        gates: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        unembed: bool = True,
        every: bool = False,
        routes: Sequence[RouterConfig | None] = (),
    ) -> PrefillOutput:
        """B prompts' token ids, of any lengths, under gates [B, L, N].

        unembed: whether logits are wanted. every: hidden states of all tokens, [B, T, d], instead of the
        last; for prompts of one length. routes: each row's; none at all: no row is routed.
        """
        ...

    def prepare(
        self, layout: Layout, gates: torch.Tensor, routes: Sequence[RouterConfig | None] = ()
    ) -> Plan:
        """What passes under a layout, the rows' gates [B, L, N] and routes need; good while they last."""
        ...

    def __call__(
        self, plan: Plan, inputs: Inputs, cache: KVCache
    ) -> tuple[torch.Tensor, GateTelemetry | None]:
        """Logits [B, V] of the next token, and the pass's reading."""
        ...

    def trial(self) -> ModelRunner:
        """The same computation without what makes it quick and takes time to make: for a few tokens."""
        ...


class TransformersRunner:
    """The pass for any architecture: transformers' own modules with the gates beside them.

    flat: decoding says only which places of the past there are, [B, length], and leaves it to the modules to
    make masks and position biases (ALiBi) of that; for those that take no finished mask.
    """

    def __init__(self, model: GatedModel, flat: bool = False):
        self._model, self._flat = model, flat
        # transformers 5.24 gave the argument another name, and warns of the old one.
        named = signature(model.model.forward).parameters
        self._past = "cache" if "cache" in named else "past_key_values"
        config = model.model.config.get_text_config()
        self._kinds = frozenset(getattr(config, "layer_types", None) or ())
        self._window = getattr(config, "sliding_window", None)

    def read(
        self,
        layout: Layout,
        gates: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        unembed: bool = True,
        every: bool = False,
        routes: Sequence[RouterConfig | None] = (),
    ) -> PrefillOutput:
        ids, mask = _left_pad(prompts, gates.device)  # [B, T]
        call = self.prepare(layout, gates, routes)
        call.recorder, call.capture = TelemetryRecorder(), "all" if every else "last"
        cache = DynamicCache()
        out = (self._model if unembed else self._model.body)(
            call,
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=-1) - 1).clamp_min(0),
            use_cache=True,
            **{self._past: cache},
            **({"logits_to_keep": 1} if unembed else {}),
        )
        past = [torch.cat([layer.keys, layer.values], dim=1) for layer in cache.layers]  # [B, 2H, T, D]
        return PrefillOutput(
            out.logits[:, -1] if unembed else None,
            call.recorder.telemetry(layout, self._model.layer_of),
            call.hidden,
            past,
            [ids.shape[1] - len(prompt) for prompt in prompts],
        )

    def prepare(
        self, layout: Layout, gates: torch.Tensor, routes: Sequence[RouterConfig | None] = ()
    ) -> GateCall:
        return GateCall(layout, gates, TokenRouter.of(layout, routes))

    def __call__(
        self, plan: GateCall, inputs: Inputs, cache: KVCache
    ) -> tuple[torch.Tensor, GateTelemetry | None]:
        plan.recorder = TelemetryRecorder()
        logits = self._model(
            plan,
            input_ids=inputs.tokens[:, None],
            attention_mask=self._mask(inputs),
            position_ids=inputs.positions[:, None],
            use_cache=True,
            **{self._past: _Past(cache, inputs.positions, inputs.length)},
        ).logits[:, -1]  # [B, V]
        return logits, plan.recorder.telemetry(plan.layout, self._model.layer_of)

    def cache(self, slots: int, max_seq_len: int) -> KVCache:
        """A batch's cache; on a GPU one that grows, where zeros take memory too."""
        return KVCache(slots, max_seq_len, growing=self._model.device.type == "cuda")

    def trial(self) -> TransformersRunner:
        return self

    def _mask(self, inputs: Inputs) -> torch.Tensor | dict[str, torch.Tensor]:
        if self._flat:
            places = torch.arange(inputs.length, device=inputs.positions.device)
            return (places <= inputs.positions[:, None]).long()  # [B, length]

        def seen(window: int | None) -> torch.Tensor:
            return decode_mask(inputs.positions, inputs.length, self._model.model.dtype, window)

        if SLIDING in self._kinds:
            return {kind: seen(self._window if kind == SLIDING else None) for kind in self._kinds}
        # A base that names no kinds of layers slides in all of them (Mistral), or in none.
        return seen(None if self._kinds else self._window)


class _Past(SlotCacheView):
    """The window with what transformers asks in order to make a mask itself."""

    def get_query_offset(self, *_args) -> int:
        return self.get_seq_length()

    def get_mask_sizes(self, queries: int, *_args) -> tuple[int, int]:
        return self.get_seq_length() + queries, 0


def _left_pad(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of unlike length, right-aligned so that the last column is every row's newest token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device
    )
    return ids, mask  # [B, T] both

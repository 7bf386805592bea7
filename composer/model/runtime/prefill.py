"""Prefill: the results of a pass over several whole prompts, and how the prompts are packed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from composer.model.rank_layout import GateTelemetry


class PrefillOutput(NamedTuple):
    """The results of a pass over B prompts."""

    # Of each prompt's next token, [B, V]; None if they were not asked for.
    logits: torch.Tensor | None
    # Of each prompt's last token.
    telemetry: GateTelemetry | None
    # Per decoder layer the hidden state after it, before any norm, at each prompt's last token, [B, d].
    hidden: list[torch.Tensor]
    # Per layer keys and values, [B, 2H, T, D], keys first.
    past: list[torch.Tensor]
    # The position in `past` at which each prompt begins.
    starts: list[int]


@dataclass(frozen=True)
class PackedPrompts:
    """Prompts of different lengths as one sequence of M tokens, without padding between them."""

    tokens: torch.Tensor  # [M]
    positions: torch.Tensor  # [M], in the token's own prompt
    row: torch.Tensor  # [M], the token's prompt
    last: torch.Tensor  # [B], the index of each prompt's last token
    # [M], the index of each token in the padded [rows, width] that attention needs; None without padding.
    place: torch.Tensor | None
    rows: int
    width: int

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], device: torch.device) -> PackedPrompts:
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)  # [B]
        row = torch.repeat_interleave(torch.arange(len(prompts), device=device), lengths)  # [M]
        last = lengths.cumsum(0) - 1  # [B]
        positions = torch.arange(len(row), device=device) - (last - lengths + 1)[row]  # [M]
        width = max(map(len, prompts))
        ragged = len(row) < len(prompts) * width
        return cls(
            torch.tensor([token for prompt in prompts for token in prompt], device=device),
            positions,
            row,
            last,
            row * width + positions if ragged else None,
            len(prompts),
            width,
        )

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """[M, ...] -> [B, T, ...]. Padding after a shorter prompt is 0, and masked in attention."""
        if self.place is not None:
            padded = x.new_zeros(self.rows * self.width, *x.shape[1:])
            padded[self.place] = x
            x = padded
        return x.view(self.rows, self.width, *x.shape[1:])

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, ...] -> [M, ...], the inverse."""
        x = x.flatten(0, 1)
        return x if self.place is None else x[self.place]

"""Reading prompts: what a pass over several whole prompts tells, and how they stand side by side in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from composer.model.rank_layout import GateTelemetry


class PrefillOutput(NamedTuple):
    """What was read of B prompts.

    logits: of each prompt's next token, [B, V]; None if nobody asked. reading: of each prompt's last token.
    hidden: after every decoder layer, un-normed, at each prompt's last token, [B, d]. past: per layer keys
    and values, [B, 2H, T, D], keys first. starts: where in `past` each prompt begins.
    """

    logits: torch.Tensor | None
    telemetry: GateTelemetry | None
    hidden: list[torch.Tensor]
    past: list[torch.Tensor]
    starts: list[int]


@dataclass(frozen=True)
class PackedPrompts:
    """Prompts of unlike length as one row of tokens, without padding between them.

    tokens, positions, row: of each of the M tokens, [M]. last: where each prompt ends, [B]. place: where each
    token stands among `rows` x `width` places that attention looks at; None if they are all taken.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    row: torch.Tensor
    last: torch.Tensor
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

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """[M, ...] -> [B, T, ...]; whatever stands after a shorter prompt is 0 and nobody looks at it."""
        if self.place is not None:
            spread = x.new_zeros(self.rows * self.width, *x.shape[1:])
            spread[self.place] = x
            x = spread
        return x.view(self.rows, self.width, *x.shape[1:])

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, ...] -> [M, ...], the way back."""
        x = x.flatten(0, 1)
        return x if self.place is None else x[self.place]

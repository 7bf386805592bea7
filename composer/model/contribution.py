"""How much each adapter changed each layer's output, from the rank-sized products alone.

    contribution[l, i] = sqrt(sum over the layer's sites of |y_i|^2) / sqrt(sum of |W0 x|^2)

with y_i = s_i (x A_i^T) B_i^T. |y_i|^2 = z_i^T G_ii z_i, where z = (x A^T) * s and G = B^T B.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from composer.model.rank_layout import GateTelemetry, Layout


@dataclass(frozen=True)
class _Stack:
    """Adapters at sites, all of one rank, stacked so that one batched product reads them all."""

    columns: torch.Tensor  # [P * r] int64: places on Z
    gram: torch.Tensor  # [P, r, r]
    cell: torch.Tensor  # [P] int64: layer * N + owner


class Contribution:
    """Turns a pass's telemetry into contributions. Built once per layout, used every token."""

    def __init__(self, layout: Layout):
        self._layout = layout
        by_rank: dict[int, list[tuple[int, torch.Tensor]]] = {}
        for path, (start, _) in layout.spans.items():
            for part in layout.bank.sites[path].parts:
                if part.rank:
                    by_rank.setdefault(part.rank, []).append((start, part.gram))
                start += part.rank
        device, adapters = layout.adapter_index.device, len(layout.bank.names)
        cell = layout.layer * adapters + layout.adapter_index  # [Z]
        self._stacks = []
        for rank, parts in by_rank.items():
            first = torch.tensor([start for start, _ in parts], device=device)  # [P]
            gram = torch.stack([each.to(device) for _, each in parts])  # [P, r, r]
            columns = first[:, None] + torch.arange(rank, device=device)  # [P, r]
            self._stacks.append(_Stack(columns.flatten(), gram, cell[first]))

    def __call__(self, telemetry: GateTelemetry) -> torch.Tensor:
        """[B, L, N] float32, dimensionless.

        Layers without any site of the bank read 0. Finite for every finite reading: what is beyond float32 is
        float32's largest number.
        """
        if telemetry.contribution is not None:
            return telemetry.contribution
        layers, adapters = self._layout.layers, len(self._layout.bank.names)
        coded, energy = telemetry.coded.float(), telemetry.energy
        if not self._stacks:
            return energy.new_zeros(len(energy), layers, adapters)
        # Squares of large numbers overflow. A power of two is taken out first, which changes no digit.
        exponent = coded.abs().amax(dim=1).frexp().exponent.clamp(-126, 126)  # [B]; 2^-127 is denormal
        one = energy.new_ones(len(energy))  # [B]
        coded = coded * one.ldexp(-exponent)[:, None]
        added = energy.new_zeros(len(coded), layers * adapters)
        for stack in self._stacks:
            z = coded.index_select(1, stack.columns)  # [B, P * r]
            z = z.view(len(z), *stack.gram.shape[:2]).transpose(0, 1)  # [P, B, r]
            squared = (torch.bmm(z, stack.gram) * z).sum(dim=2)  # [P, B]
            added.index_add_(1, stack.cell, squared.T)
        added = added.view(len(coded), layers, adapters).clamp_min(0)
        # The roots apart: over a base that says nothing the quotient of squares would be infinite.
        root = added.sqrt() * one.ldexp(exponent)[:, None, None]
        largest = torch.finfo(torch.float32)
        shares = root / energy.clamp(largest.tiny, largest.max).sqrt().unsqueeze(-1)
        return shares.clamp_max(largest.max)

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
    """Sites of equal summed rank, stacked so that one batched product reads them all."""

    columns: torch.Tensor  # [S, R] int64: places on Z
    gram: torch.Tensor  # [S, R, R]
    cell: torch.Tensor  # [S * R] int64: layer * N + owner


class Contribution:
    """Turns a pass's telemetry into contributions. Built once per layout, used every token."""

    def __init__(self, layout: Layout):
        self._layout = layout
        by_rank: dict[int, list[str]] = {}
        for path, (start, end) in layout.spans.items():
            if end > start:
                by_rank.setdefault(end - start, []).append(path)
        adapters = len(layout.bank.names)
        place = torch.arange(len(layout.adapter_index), device=layout.adapter_index.device)  # [Z]
        cell = layout.layer * adapters + layout.adapter_index  # [Z]
        self._stacks = []
        for paths in by_rank.values():
            columns = torch.stack([place[slice(*layout.spans[path])] for path in paths])  # [S, R]
            gram = torch.stack([layout.bank.sites[path].gram.to(place.device) for path in paths])  # [S, R, R]
            self._stacks.append(_Stack(columns, gram, cell[columns].flatten()))

    def __call__(self, telemetry: GateTelemetry) -> torch.Tensor:
        """[B, L, N] float32, dimensionless.

        Layers without any site of the bank read 0. Finite for every finite reading: what is beyond float32 is
        float32's largest number.
        """
        layers, adapters = self._layout.layers, len(self._layout.bank.names)
        coded, energy = telemetry.coded.float(), telemetry.energy
        if not self._stacks:
            return energy.new_zeros(len(energy), layers, adapters)
        # Squares of large numbers overflow. A power of two is taken out first, which changes no digit.
        exponent = coded.abs().amax(dim=1).frexp().exponent.clamp(-126, 126)  # [B]; 2^-127 is denormal
        coded = coded.ldexp(-exponent[:, None])
        added = energy.new_zeros(len(coded), layers * adapters)
        for stack in self._stacks:
            z = coded[:, stack.columns].transpose(0, 1)  # [S, B, R]
            squared = (torch.bmm(z, stack.gram) * z).transpose(0, 1)  # [B, S, R]
            added.index_add_(1, stack.cell, squared.flatten(1))
        added = added.view(len(coded), layers, adapters).clamp_min(0)
        # The roots apart: over a base that says nothing the quotient of squares would be infinite.
        root = added.sqrt().ldexp(exponent[:, None, None])
        largest = torch.finfo(torch.float32)
        shares = root / energy.clamp(largest.tiny, largest.max).sqrt().unsqueeze(-1)
        return shares.clamp_max(largest.max)

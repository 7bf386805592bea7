"""How much each adapter changed each layer's output, from the rank-sized products alone.

    contribution[l, i] = sqrt(sum over the layer's sites of |y_i|^2) / sqrt(sum of |W0 x|^2)

with y_i = s_i (x A_i^T) B_i^T. |y_i|^2 = z_i^T G_ii z_i, where z = (x A^T) * s and G = B^T B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from composer.adapters.bank import Bank


@dataclass(frozen=True)
class _Stack:
    """Sites of equal summed rank, stacked so that one batched product reads them all."""

    paths: tuple[str, ...]
    gram: torch.Tensor  # [S, R, R]
    cell: torch.Tensor  # [S, R] int64: layer * N + owner


class Contribution:
    """Turns a pass's readings into contributions. Built once per bank, used every token."""

    def __init__(self, bank: Bank, layer_of: Mapping[str, int], layers: int):
        self._adapters, self._layers = len(bank.names), layers
        self._layer_of = layer_of
        by_rank: dict[int, list[str]] = {}
        for path, site in bank.sites.items():
            by_rank.setdefault(len(site.owner), []).append(path)
        self._stacks = [
            _Stack(
                tuple(paths),
                torch.stack([bank.sites[path].gram for path in paths]),
                torch.stack([layer_of[path] * self._adapters + bank.sites[path].owner for path in paths]),
            )
            for paths in by_rank.values()
        ]

    def __call__(self, coded: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """coded: path -> z [B, R]; base: path -> |W0 x| [B]. Returns [B, L, N] float32, dimensionless.

        Layers without any site of the bank read 0.
        """
        if not self._stacks:
            return torch.zeros(1, self._layers, self._adapters)
        rows = len(next(iter(base.values())))
        device = self._stacks[0].gram.device
        added = torch.zeros(rows, self._layers * self._adapters, device=device)
        for stack in self._stacks:
            z = torch.stack([coded[path] for path in stack.paths]).float()  # [S, B, R]
            energy = (torch.bmm(z, stack.gram) * z).transpose(0, 1)  # [B, S, R]
            added.index_add_(1, stack.cell.flatten(), energy.flatten(1))
        layers = torch.tensor([self._layer_of[path] for path in base], device=device)
        norms = torch.stack(list(base.values()), dim=1).square()  # [B, S]
        total = torch.zeros(rows, self._layers, device=device).index_add_(1, layers, norms)  # [B, L]
        added = added.view(rows, self._layers, self._adapters).clamp_min(0)
        return (added / total.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)).sqrt()

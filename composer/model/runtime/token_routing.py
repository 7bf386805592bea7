"""Gates that every token shares out anew at every site, by what each adapter responds to most (Arrow).

    share_i = softmax_i |x . v_i|,  v_i the top right singular vector of B_i A_i

over the adapters that take part and have the site. v_i = A_i^T c_i (Site.prototype), so x . v_i is read off
the rank-sized product x A^T that the gate makes anyway, and nothing of size d_in is kept or made per token.
Ostapenko et al. 2024, arXiv 2405.11157; the dot product as it is, without norms, as PEFT's router has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from composer.model.rank_layout import Layout
from composer.model.runtime.llama.layer import TokenFactor


@dataclass(frozen=True)
class RouterConfig:
    """How a row's gates are shared out: times (1 - blend) + blend * share_i * (n if unit else 1), with n the
    adapters that take part at the site.
    """

    # [N] bool, which adapters take part. Other gates stay as they are.
    part: np.ndarray
    blend: float
    unit: bool

    def select(self, columns: Sequence[int]) -> RouterConfig:
        """Over these adapters alone. Those that it does not know take no part."""
        known = np.zeros(max((*columns, len(self.part) - 1)) + 1, bool)
        known[: len(self.part)] = self.part
        return replace(self, part=known[list(columns)])


@dataclass(frozen=True)
class TokenRouter:
    """The routes of B rows under a layout with S sites. A row without one is multiplied by 1, to the bit."""

    layout: Layout
    # Where a site's columns begin on Z (and where the last one's end) -> its place.
    first: Mapping[int, int]
    # Which adapters take part at which site, [B, S, N].
    part: torch.Tensor
    # The factor is keep + swing * share; [B, 1, 1] and [B, S, 1].
    keep: torch.Tensor
    swing: torch.Tensor

    @classmethod
    def of(cls, layout: Layout, routes: Sequence[RouterConfig | None]) -> TokenRouter | None:
        """routes: a row's each; adapters that a route does not know yet take no part in it. None where no row
        is routed."""
        if not any(routes) or not layout.spans:
            return None
        device, count = layout.adapter_index.device, len(layout.bank.names)
        part = np.zeros((len(routes), 1, count), bool)  # [B, 1, N]
        for own, route in zip(part, routes, strict=True):
            if route is not None:
                own[0, : len(route.part)] = route.part
        blend = torch.tensor([route.blend if route else 0.0 for route in routes], device=device)
        unit = torch.tensor([route is not None and route.unit for route in routes], device=device)
        blend, unit = blend[:, None, None], unit[:, None, None]  # [B, 1, 1]
        taking = torch.from_numpy(part).to(device) & layout.present  # [B, S, N]
        swing = blend * torch.where(unit, taking.sum(dim=2, keepdim=True), 1)  # [B, S, 1]
        starts = (0, *(end for _, end in layout.spans.values()))
        return cls(layout, {start: place for place, start in enumerate(starts)}, taking, 1 - blend, swing)

    def __call__(
        self, z: torch.Tensor, start: int, end: int, row: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What multiplies the scales of columns [start, end) of Z, which are whole sites'; [M, R] as z.

        z: x A^T of M tokens there. row: whose each token is, [M]; None: token m is row m's.
        """
        if start == end:
            return z
        count, sites = len(self.layout.bank.names), slice(self.first[start], self.first[end])
        part, keep, swing = self.part[:, sites], self.keep, self.swing[:, sites]
        if row is not None:
            part, keep, swing = part[row], keep[row], swing[row]
        cell = (self.layout.site[start:end] - sites.start) * count + self.layout.adapter_index[
            start:end
        ]  # [R]
        # A product with zeros rather than a scattered sum: on a GPU that adds up in no fixed order.
        cells = torch.arange((sites.stop - sites.start) * count, device=cell.device)
        reads = self.layout.prototype[start:end, None] * (cell[:, None] == cells)  # [R, S N]
        near = (z.float() @ reads).abs().unflatten(1, (-1, count))  # [M, S, N]
        share = near.masked_fill(~part, float("-inf")).softmax(dim=2)
        factor = torch.where(part, keep + swing * share, 1.0)  # where nobody takes part the share is NaN
        return factor.flatten(1)[:, cell].to(z.dtype)

    def of_layer(self, origin: int, row: torch.Tensor | None = None) -> TokenFactor:
        """The same for a decoder layer, whose part of Z begins at `origin`."""
        return lambda z, start, end: self(z, origin + start, origin + end, row)

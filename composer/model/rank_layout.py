"""The rank axis: every rank column of every site of a bank, one after another, in the model's own order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from composer.adapters.bank import AdapterBank


@dataclass(frozen=True)
class Layout:
    """Where a bank's sites stand on the flat axis Z (the sum of all sites' R). Immutable, as the bank is.

    spans: site path -> [start, end) on Z, in the model's order. layer, owner: the layer and the adapter of
    each column, [Z] int64. scaling: the adapter's own scaling (alpha / r), [Z] float32.
    """

    bank: AdapterBank
    layers: int
    spans: Mapping[str, tuple[int, int]]
    layer: torch.Tensor  # [Z]
    adapter_index: torch.Tensor  # [Z]
    scaling: torch.Tensor  # [Z]

    @classmethod
    def of(cls, bank: AdapterBank, layer_of: Mapping[str, int], layers: int, device: torch.device) -> Layout:
        """layer_of: every site of the model -> its layer; its order is the order of Z."""
        paths = [path for path in layer_of if path in bank.sites]
        sites = [bank.sites[path] for path in paths]
        spans, end = {}, 0
        for path, site in zip(paths, sites, strict=True):
            spans[path] = (end, end + len(site.adapter_index))
            end += len(site.adapter_index)
        whole = torch.empty(0, dtype=torch.int64, device=device)
        layer = [
            torch.full_like(site.adapter_index, layer_of[path])
            for path, site in zip(paths, sites, strict=True)
        ]
        return cls(
            bank,
            layers,
            spans,
            torch.cat([whole, *layer]),
            torch.cat([whole, *(site.adapter_index for site in sites)]),
            torch.cat([whole.float(), *(site.scaling.float() for site in sites)]),
        )

    @property
    def dtype(self) -> torch.dtype:
        """What z is computed in."""
        return next((site.A.dtype for site in self.bank.sites.values()), torch.float32)

    @cached_property
    def site(self) -> torch.Tensor:
        """[Z] int64: the place in `spans` of each column's site."""
        sizes = torch.tensor([end - start for start, end in self.spans.values()], dtype=torch.int64)
        return torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(self.adapter_index.device)

    @cached_property
    def present(self) -> torch.Tensor:
        """[S, N] bool: which adapter has which site."""
        here = torch.zeros(
            len(self.spans), len(self.bank.names), dtype=torch.bool, device=self.adapter_index.device
        )
        here[self.site, self.adapter_index] = True
        return here

    @cached_property
    def prototype(self) -> torch.Tensor:
        """[Z] float32: Site.prototype of all the sites."""
        return torch.cat([self.scaling[:0], *(self.bank.sites[path].prototype for path in self.spans)])

    def scales(self, gates: torch.Tensor) -> torch.Tensor:
        """[B, L, N] gates -> [B, Z]: what multiplies x A^T, gate times the adapter's own scaling."""
        return (gates[:, self.layer, self.adapter_index] * self.scaling).to(self.dtype)


@dataclass(frozen=True)
class GateTelemetry:
    """What one pass says about its last tokens, from which every contribution follows."""

    # z = (x A^T) * s of each site, [B, Z].
    coded: torch.Tensor  # [B, Z]
    # Sum over the bank's sites of a layer of |W0 x|^2, [B, L] float32.
    energy: torch.Tensor  # [B, L]


def layer_energy(norms: torch.Tensor, layer: torch.Tensor, layers: int) -> torch.Tensor:
    """|W0 x| per site, [B, S], and each site's layer, [S] -> the energies of a Reading, [B, L] float32."""
    total = norms.new_zeros(len(norms), layers, dtype=torch.float32)
    return total.index_add_(1, layer, norms.float().square())

"""Shadow copies of adapters with B = 0: they record z at gate 1 and change nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from composer.adapters.bank import AdapterBank, SiteFactors


def subset_bank(bank: AdapterBank, columns: Sequence[int]) -> AdapterBank:
    """A bank of only these adapters, in this order, without norms."""
    sites = {}
    for path, site in bank.sites.items():
        places = [torch.nonzero((site.adapter_index == column) & site.filled).flatten() for column in columns]
        keep = torch.cat(places) if places else site.adapter_index[:0]  # [R]
        if len(keep):
            adapter_index = torch.cat([torch.full_like(place, new) for new, place in enumerate(places)])
            sites[path] = SiteFactors(site.A[keep], site.B[:, keep], adapter_index, site.scaling[keep])
    return AdapterBank(tuple(bank.names[column] for column in columns), sites)


def with_shadow_adapters(bank: AdapterBank) -> AdapterBank:
    """The bank with a shadow copy of each adapter i as column n + i, with B = 0.

    A shadow copy adds nothing, so its gate can be 1 where the adapter's own is 0. Its z = s_i x A_i^T is what
    the adapter would compute there. At every site the shadow copies are the second half of the rank columns.
    """
    sites = {
        path: SiteFactors(
            torch.cat([site.A, site.A]),
            torch.cat([site.B, torch.zeros_like(site.B)], dim=1),
            torch.cat([site.adapter_index, site.adapter_index + len(bank.names)]),
            torch.cat([site.scaling, site.scaling]),
        )
        for path, site in bank.sites.items()
    }
    return AdapterBank((*bank.names, *(f"{name}, shadow" for name in bank.names)), sites)


def owners(site: SiteFactors, adapters: int) -> torch.Tensor:
    """[n, R] float64: 1 where the rank column is of the adapter."""
    return (site.adapter_index == torch.arange(adapters, device=site.adapter_index.device)[:, None]).double()

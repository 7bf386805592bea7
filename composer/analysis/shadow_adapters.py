"""What adapters would add, whether or not their gate lets them: twins that listen and add nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from composer.adapters.bank import AdapterBank, SiteFactors


def subset_bank(bank: AdapterBank, columns: Sequence[int]) -> AdapterBank:
    """The bank of these adapters alone, in this order; without its norms."""
    sites = {}
    for path, site in bank.sites.items():
        places = [torch.nonzero(site.adapter_index == column).flatten() for column in columns]
        keep = torch.cat(places) if places else site.adapter_index[:0]  # [R]
        if len(keep):
            adapter_index = torch.cat([torch.full_like(place, new) for new, place in enumerate(places)])
            sites[path] = SiteFactors(site.A[keep], site.B[:, keep], adapter_index, site.scaling[keep])
    return AdapterBank(tuple(bank.names[column] for column in columns), sites)


def with_shadow_adapters(bank: AdapterBank) -> AdapterBank:
    """Each adapter i of n once more as column n + i, with B = 0.

    The twin adds nothing, so its gate can be 1 where the adapter's own is 0, and its z = s_i x A_i^T is
    what the adapter would code there. At every site the twins are the second half of the rank columns.
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
    return AdapterBank((*bank.names, *(f"{name}, listening" for name in bank.names)), sites)


def owners(site: SiteFactors, adapters: int) -> torch.Tensor:
    """[n, R] float64: 1 where the rank column belongs to the adapter."""
    return (site.adapter_index == torch.arange(adapters, device=site.adapter_index.device)[:, None]).double()

"""Shadow copies of adapters with B = 0: they record z at gate 1 and change nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from composer.adapters.bank import AdapterBank, LoraFactors, SiteFactors


def subset_bank(bank: AdapterBank, columns: Sequence[int]) -> AdapterBank:
    """A bank of only these adapters, in this order, without norms."""
    own = [bank.adapter(bank.names[column]) for column in columns]
    sites = {}
    for path in bank.sites:
        here = [(each[path], index) for index, each in enumerate(own) if path in each]
        if here:
            parts, owners = zip(*here, strict=True)
            sites[path] = SiteFactors(parts, owners)
    return AdapterBank(tuple(bank.names[column] for column in columns), sites)


def with_shadow_adapters(bank: AdapterBank) -> AdapterBank:
    """The bank with a shadow copy of each adapter i as column n + i, with B = 0.

    A shadow copy adds nothing, so its gate can be 1 where the adapter's own is 0. Its z = s_i x A_i^T is what
    the adapter would compute there. At every site the shadow copies are the second half of the rank columns.
    """
    sites = {
        path: SiteFactors(
            (
                *site.parts,
                *(LoraFactors(part.A, torch.zeros_like(part.B), part.scaling) for part in site.parts),
            ),
            (*site.owners, *(owner + len(bank.names) for owner in site.owners)),
        )
        for path, site in bank.sites.items()
    }
    return AdapterBank((*bank.names, *(f"{name}, shadow" for name in bank.names)), sites)


def owners(site: SiteFactors, adapters: int) -> torch.Tensor:
    """[n, R] float64: 1 where the rank column is of the adapter."""
    return (site.adapter_index == torch.arange(adapters, device=site.adapter_index.device)[:, None]).double()

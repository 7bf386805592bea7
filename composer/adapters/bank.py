"""The bank: all adapters' factors, stacked per site so that N adapters cost three small kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from composer.adapters.balance import balanced
from composer.core.errors import ComposerError


@dataclass(frozen=True)
class LoraFactors:
    """One adapter at one site: it adds `scaling * B A x`."""

    A: torch.Tensor  # [r, d_in]
    B: torch.Tensor  # [d_out, r]
    scaling: float

    @property
    def norm(self) -> float:
        """Frobenius norm of scaling * B A, from r x r products only."""
        a, b, scaling = balanced(self.A.float(), self.B.float(), self.scaling)
        return scaling * float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt())


Adapter = Mapping[str, LoraFactors]  # site path -> factors


@dataclass(frozen=True)
class SiteFactors:
    """All adapters at one site, stacked along the rank.

    owner: which adapter a rank column belongs to. gram: B^T B, zero between different adapters,
    in float32; it gives |y_i|^2 = z_i^T G_ii z_i without any d_out-sized work.
    """

    A: torch.Tensor  # [R, d_in]
    B: torch.Tensor  # [d_out, R]
    adapter_index: torch.Tensor  # [R] int64
    scaling: torch.Tensor  # [R] float32

    def select(self, columns: torch.Tensor) -> SiteFactors:
        """With some of its rank columns, [R] bool."""
        return SiteFactors(
            self.A[columns], self.B[:, columns], self.adapter_index[columns], self.scaling[columns]
        )

    @cached_property
    def filled(self) -> torch.Tensor:
        """[R] bool: the columns that hold something. A slot may have more than its adapter needs."""
        return self.A.any(dim=1) | self.B.any(dim=0)

    @cached_property
    def gram(self) -> torch.Tensor:
        b = self.B.float()
        same = self.adapter_index[:, None] == self.adapter_index[None, :]  # [R, R]
        return (b.T @ b) * same  # [R, R]

    @cached_property
    def prototype(self) -> torch.Tensor:
        """[R] float32: each adapter's columns hold the c that makes A_i^T c the top right singular vector of
        its B_i A_i, of length 1; 0 for an adapter that adds nothing here."""
        found = torch.zeros(len(self.adapter_index), device=self.adapter_index.device)
        for adapter in self.adapter_index.unique():
            own = self.adapter_index == adapter
            found[own] = _top_right(self.A[own], self.B[:, own]).to(found)
        return found


@dataclass(frozen=True)
class AdapterBank:
    """Immutable: adding an adapter makes a new bank, so a generation under way keeps the one it began with.

    Adapter i of `names` is column i of every gate tensor.
    """

    names: tuple[str, ...] = ()
    sites: Mapping[str, SiteFactors] = field(default_factory=dict)
    # Frobenius norm of each adapter's change per site path; insight wants it per layer.
    norms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def add(self, name: str, adapter: Adapter) -> AdapterBank:
        """A bank with one more adapter as its last column. Raises ComposerError for a name already there."""
        if name in self.names:
            raise ComposerError(f"There is already an adapter called {name}; give the new one another name.")
        return self._with(name, len(self.names), adapter)

    def _with(self, name: str, index: int, adapter: Adapter) -> AdapterBank:
        """With an adapter in a column that holds nothing, or in the next one."""
        sites = dict(self.sites)
        for path, own in adapter.items():
            rank, device = own.A.shape[0], own.A.device
            A, B, factor = balanced(own.A, own.B, own.scaling)
            new = SiteFactors(
                A,
                B,
                torch.full((rank,), index, dtype=torch.int64, device=device),
                torch.full((rank,), factor, dtype=torch.float32, device=device),
            )
            sites[path] = _stack(sites[path], new) if path in sites else new
        return AdapterBank(
            (*self.names[:index], name, *self.names[index + 1 :]), sites, self._normed(name, adapter)
        )

    def adapter(self, name: str) -> Adapter:
        """An adapter's own factors, read back out of the stack, without the padding of a slot."""
        index, own = self.names.index(name), {}
        for path, site in self.sites.items():
            mine = (site.adapter_index == index) & site.filled  # [R]
            if mine.any():
                own[path] = LoraFactors(site.A[mine], site.B[:, mine], float(site.scaling[mine][0]))
        return own

    def allocate_slot(self, name: str, rank: int, like: Adapter | None = None) -> AdapterBank:
        """A bank with an adapter of zeros, of this rank at every site, for `write_slot`.

        like: the adapter whose sites it has; None: every site of the bank. A name that is in the bank keeps
        its column and loses its factors; with rank 0 it has no site.
        """
        shapes: Mapping[str, SiteFactors | LoraFactors] = self.sites if like is None else like
        empty = {
            path: LoraFactors(
                site.A.new_zeros(rank, site.A.shape[1]), site.B.new_zeros(site.B.shape[0], rank), 1.0
            )
            for path, site in shapes.items()
            if rank or path in self.sites
        }
        if name not in self.names:
            return self.add(name, empty)
        index = self.names.index(name)
        others = {path: site.select(site.adapter_index != index) for path, site in self.sites.items()}
        # A site that no adapter has any more goes, unless the slot has it again.
        others = {path: site for path, site in others.items() if len(site.adapter_index)}
        empty = {path: own for path, own in empty.items() if rank or path in others}
        return AdapterBank(self.names, others, self.norms)._with(name, index, empty)

    def rename(self, old: str, new: str) -> AdapterBank:
        """A bank with another name for a column. Raises ComposerError for a name already there."""
        if new in self.names:
            raise ComposerError(f"There is already an adapter called {new}; give the new one another name.")
        names = tuple(new if name == old else name for name in self.names)
        norms = {new if name == old else name: own for name, own in self.norms.items()}
        return AdapterBank(names, self.sites, norms)

    def write_slot(self, name: str, adapter: Adapter) -> AdapterBank:
        """A bank of the same shape with other factors in an adapter's column, padded with zeros.

        Raises ValueError for a rank or a site that the slot does not have.
        """
        index, sites = self.names.index(name), dict(self.sites)
        for path, site in self.sites.items():
            mine = torch.nonzero(site.adapter_index == index).flatten()  # [r]
            if len(mine):
                sites[path] = _filled(site, mine, adapter.get(path))
            elif path in adapter:
                raise ValueError(f"{name} has no slot at {path}")
        return AdapterBank(self.names, sites, self._normed(name, adapter))

    def _normed(self, name: str, adapter: Adapter) -> Mapping[str, Mapping[str, float]]:
        return dict(self.norms) | {name: {path: own.norm for path, own in adapter.items()}}


def _filled(site: SiteFactors, mine: torch.Tensor, own: LoraFactors | None) -> SiteFactors:
    rank = 0 if own is None else own.A.shape[0]
    if rank > len(mine):
        raise ValueError(f"rank {rank} has no room in {len(mine)}")
    A, B, scaling = site.A.clone(), site.B.clone(), site.scaling.clone()
    A[mine], B[:, mine] = 0, 0
    if own is not None:
        A[mine[:rank]], B[:, mine[:rank]], scaling[mine] = balanced(own.A, own.B, own.scaling)
    return SiteFactors(A, B, site.adapter_index, scaling)


def _top_right(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """[r] float64: c with A^T c = v, where B A v = s u and s is the largest there is; so c = B^T u / s.

    On a CPU: these are many small decompositions, each of which a GPU would wait for.
    """
    inner = torch.linalg.qr(A.cpu().double().T, mode="r").R  # [k, r], k = min(d_in, r)
    outer = torch.linalg.qr(B.cpu().double(), mode="r").R  # [m, r], m = min(d_out, r)
    u, s, _ = torch.linalg.svd(outer @ inner.T)
    return outer.T @ u[:, 0] / s[0] if s[0] > 0 else torch.zeros(len(A), dtype=torch.float64)


def _stack(old: SiteFactors, new: SiteFactors) -> SiteFactors:
    return SiteFactors(
        torch.cat([old.A, new.A]),
        torch.cat([old.B, new.B], dim=1),
        torch.cat([old.adapter_index, new.adapter_index]),
        torch.cat([old.scaling, new.scaling]),
    )

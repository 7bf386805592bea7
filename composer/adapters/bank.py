"""The bank: all adapters' factors by site, one after another along the rank."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from composer.adapters.balance import balanced
from composer.core.errors import ComposerError


@dataclass(frozen=True, eq=False)
class LoraFactors:
    """One adapter at one site: it adds `scaling * B A x`. Equal only to itself, so that it can be a key."""

    A: torch.Tensor  # [r, d_in]
    B: torch.Tensor  # [d_out, r]
    scaling: float

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def norm(self) -> float:
        """Frobenius norm of scaling * B A, from r x r products only."""
        a, b, scaling = balanced(self.A.float(), self.B.float(), self.scaling)
        return scaling * float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt())

    @cached_property
    def filled(self) -> torch.Tensor:
        """[r] bool: the rank columns that hold something. A slot may have more than its adapter needs."""
        return self.A.any(dim=1) | self.B.any(dim=0)

    @cached_property
    def gram(self) -> torch.Tensor:
        """B^T B in float32."""
        b = self.B.float()
        return b.T @ b  # [r, r]

    @cached_property
    def prototype(self) -> torch.Tensor:
        """[r] float32: the c that makes A^T c the top right singular vector of B A, of length 1; 0 where the
        adapter adds nothing here."""
        return _top_right(self.A, self.B).to(self.A.device, torch.float32)

    def of(self, columns: torch.Tensor) -> LoraFactors:
        """With some of its rank columns, [r] bool; the very same object with all of them."""
        return self if columns.all() else LoraFactors(self.A[columns], self.B[:, columns], self.scaling)

    def nothing(self) -> LoraFactors:
        """Factors of rank 0 of the same site."""
        return LoraFactors(self.A[:0], self.B[:, :0], self.scaling)

    def in_room_of(self, room: LoraFactors) -> LoraFactors:
        """These factors, padded with zeros to the rank of others of the same site, and cast to their type.

        Raises ValueError for a rank that has no room there.
        """
        if self.rank > room.rank:
            raise ValueError(f"rank {self.rank} has no room in {room.rank}")
        own = balanced(self.A, self.B, self.scaling)
        A, B = torch.zeros_like(room.A), torch.zeros_like(room.B)
        A[: self.rank], B[:, : self.rank] = own.A, own.B
        return LoraFactors(A, B, own.scaling)


Adapter = Mapping[str, LoraFactors]  # site path -> factors
# The owner of a site's only part, of rank 0, where none of the adapters has the site.
UNOWNED = -1


@dataclass(frozen=True)
class SiteFactors:
    """Adapters at one site, one after another along the rank.

    parts: each one's own factors. Banks and their selections share them: whatever adapters come and go, none
    is copied. owners: which adapter of the bank each is. Stacks of them are made when they are asked for.
    """

    parts: tuple[LoraFactors, ...]
    owners: tuple[int, ...]

    @property
    def rank(self) -> int:
        """R, summed over the parts."""
        return sum(part.rank for part in self.parts)

    @cached_property
    def A(self) -> torch.Tensor:
        """[R, d_in]"""
        return torch.cat([part.A for part in self.parts])

    @cached_property
    def B(self) -> torch.Tensor:
        """[d_out, R]"""
        return torch.cat([part.B for part in self.parts], dim=1)

    @cached_property
    def adapter_index(self) -> torch.Tensor:
        """[R] int64: which adapter a rank column is of."""
        return by_column(self.parts, self.owners, torch.int64).to(self.parts[0].A.device)

    @cached_property
    def scaling(self) -> torch.Tensor:
        """[R] float32"""
        values = [part.scaling for part in self.parts]
        return by_column(self.parts, values, torch.float32).to(self.parts[0].A.device)

    @property
    def gram(self) -> torch.Tensor:
        """[R, R] float32: B^T B, zero between different adapters.

        It gives |y_i|^2 = z_i^T G_ii z_i without any d_out-sized work.
        """
        return torch.block_diag(*(part.gram for part in self.parts))

    @property
    def prototype(self) -> torch.Tensor:
        """[R] float32: each part's, see LoraFactors.prototype."""
        return torch.cat([part.prototype for part in self.parts])

    def part(self, owner: int) -> LoraFactors | None:
        """An adapter's factors; None where it has none here."""
        return self.parts[self.owners.index(owner)] if owner in self.owners else None

    def add(self, part: LoraFactors, owner: int) -> SiteFactors:
        """With one more adapter."""
        return SiteFactors((*self.parts, part), (*self.owners, owner))

    def replace(self, owner: int, part: LoraFactors) -> SiteFactors:
        """With other factors of an adapter, in its place."""
        old = zip(self.parts, self.owners, strict=True)
        return SiteFactors(tuple(part if own == owner else each for each, own in old), self.owners)

    def select(self, owners: Collection[int]) -> SiteFactors:
        """With some of its adapters, whose indices they keep. With none of them the rank is 0."""
        chosen = [(part, own) for part, own in zip(self.parts, self.owners, strict=True) if own in owners]
        if not chosen:
            chosen = [(self.parts[0].nothing(), UNOWNED)]
        return SiteFactors(*map(tuple, zip(*chosen, strict=True)))


def by_column(parts: Sequence[LoraFactors], values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    """A value of each part -> one of each of their rank columns, [R], on the CPU."""
    ranks = torch.tensor([part.rank for part in parts], dtype=torch.int64)
    return torch.tensor(values, dtype=dtype).repeat_interleave(ranks)


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
            part = LoraFactors(*balanced(own.A, own.B, own.scaling))
            sites[path] = sites[path].add(part, index) if path in sites else SiteFactors((part,), (index,))
        return AdapterBank(
            (*self.names[:index], name, *self.names[index + 1 :]), sites, self._normed(name, adapter)
        )

    def adapter(self, name: str) -> Adapter:
        """An adapter's own factors, without the padding of a slot."""
        index, own = self.names.index(name), {}
        for path, site in self.sites.items():
            part = site.part(index)
            if part is not None and part.filled.any():
                own[path] = part.of(part.filled)
        return own

    def allocate_slot(self, name: str, rank: int, like: Adapter | None = None) -> AdapterBank:
        """A bank with an adapter of zeros, of this rank at every site, for `write_slot`.

        like: the adapter whose sites it has; None: every site of the bank. A name that is in the bank keeps
        its column and loses its factors; with rank 0 it has no site.
        """
        if like is None:
            like = {path: site.parts[0] for path, site in self.sites.items()}
        empty = {
            path: LoraFactors(
                own.A.new_zeros(rank, own.A.shape[1]), own.B.new_zeros(own.B.shape[0], rank), 1.0
            )
            for path, own in like.items()
            if rank
        }
        if name not in self.names:
            return self.add(name, empty)
        index = self.names.index(name)
        others = {
            path: site.select({*site.owners} - {index})
            for path, site in self.sites.items()
            # A site that no adapter has any more goes, unless the slot has it again.
            if set(site.owners) != {index}
        }
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
            room, own = site.part(index), adapter.get(path)
            if room is not None:
                sites[path] = site.replace(index, (own or room.nothing()).in_room_of(room))
            elif own is not None:
                raise ValueError(f"{name} has no slot at {path}")
        return AdapterBank(self.names, sites, self._normed(name, adapter))

    def _normed(self, name: str, adapter: Adapter) -> Mapping[str, Mapping[str, float]]:
        return dict(self.norms) | {name: {path: own.norm for path, own in adapter.items()}}


def _top_right(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """[r] float64: c with A^T c = v, where B A v = s u and s is the largest there is; so c = B^T u / s.

    On a CPU: these are many small decompositions, each of which a GPU would wait for.
    """
    inner = torch.linalg.qr(A.cpu().double().T, mode="r").R  # [k, r], k = min(d_in, r)
    outer = torch.linalg.qr(B.cpu().double(), mode="r").R  # [m, r], m = min(d_out, r)
    u, s, _ = torch.linalg.svd(outer @ inner.T)
    return outer.T @ u[:, 0] / s[0] if s.any() else torch.zeros(len(A), dtype=torch.float64)

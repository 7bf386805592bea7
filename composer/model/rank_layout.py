"""The rank axis: every rank column of every site of a bank, one after another, in the model's own order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

import torch

from composer.adapters.bank import UNOWNED, AdapterBank, LoraFactors, SiteFactors, by_column

T = TypeVar("T")

# Selections that are kept. People turn sliders to 0 and back, and many texts share a few sets of adapters.
KEPT_SELECTIONS = 8


@dataclass(frozen=True, eq=False)
class Layout:
    """Where a bank's sites stand on the flat axis Z (the sum of all sites' R). Immutable, as the bank is."""

    bank: AdapterBank
    layers: int
    # Site path -> [start, end) on Z, in the model's order.
    spans: Mapping[str, tuple[int, int]]
    # The layer and the adapter of each column, [Z] int64.
    layer: torch.Tensor  # [Z]
    adapter_index: torch.Tensor  # [Z]
    # The adapter's own scaling (alpha / r), [Z] float32.
    scaling: torch.Tensor  # [Z]
    # The column of each of the bank's adapters in the whole bank, which `select` was asked of.
    columns: tuple[int, ...] = ()
    # Of this layout alone: dataclasses.replace makes them anew.
    _selected: OrderedDict[tuple[int, ...], Layout] = field(
        default_factory=OrderedDict, init=False, repr=False
    )
    _derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    _deriving: Lock = field(default_factory=Lock, init=False, repr=False)

    @classmethod
    def of(
        cls,
        bank: AdapterBank,
        layer_of: Mapping[str, int],
        layers: int,
        device: torch.device,
        before: Layout | None = None,
    ) -> Layout:
        """layer_of: every site of the model -> its layer; its order is the order of Z.

        before: the layout of the bank that this one was made of. Its selections whose adapters are the same
        are kept, with all that was derived from them: texts go on as if nothing had come or gone.
        """
        spans, end = {}, 0
        parts, owners, layer = list[LoraFactors](), list[int](), list[int]()
        for path in layer_of:
            if path in bank.sites:
                site = bank.sites[path]
                spans[path] = (end, end + site.rank)
                parts += site.parts
                owners += site.owners
                layer += [layer_of[path]] * len(site.parts)
                end += site.rank
        made = cls(
            bank,
            layers,
            spans,
            by_column(parts, layer, torch.int64).to(device),
            by_column(parts, owners, torch.int64).to(device),
            by_column(parts, [part.scaling for part in parts], torch.float32).to(device),
            tuple(range(len(bank.names))),
        )
        if before is not None:
            with before._deriving:
                known = list(before._selected.items())
            made._selected.update((columns, own) for columns, own in known if own._is_in(bank))
        return made

    def select(self, columns: Sequence[int]) -> Layout:
        """The layout of a bank with only these adapters, in their order; the last ones asked for are kept.

        Adapters whose gates are 0 add nothing, so a pass runs under those that are in use and costs as much
        as if no other was loaded. The sites stay, without columns where none of these has any: contributions
        are shares of the base's output at all of them.
        """
        wanted = tuple(columns)
        if wanted == tuple(range(len(self.bank.names))):
            return self
        with self._deriving:
            if wanted not in self._selected:
                self._selected[wanted] = self._select(wanted)
            self._selected.move_to_end(wanted)
            while len(self._selected) > KEPT_SELECTIONS:
                self._selected.popitem(last=False)
            return self._selected[wanted]

    def _select(self, columns: tuple[int, ...]) -> Layout:
        place = {column: at for at, column in enumerate(columns)}
        spans, sites, end = {}, {}, 0
        for path in self.spans:
            own = self.bank.sites[path].select(columns)
            sites[path] = SiteFactors(own.parts, tuple(place.get(owner, UNOWNED) for owner in own.owners))
            spans[path] = (end, end + own.rank)
            end += own.rank
        names = tuple(self.bank.names[column] for column in columns)
        norms = {name: self.bank.norms[name] for name in names if name in self.bank.norms}
        index = torch.full((len(self.bank.names),), -1)
        index[list(columns)] = torch.arange(len(columns))
        index = index.to(self.adapter_index.device)[self.adapter_index]  # [Z], -1 where one is left out
        here = torch.nonzero(index >= 0).flatten()  # [Z of the selection]
        return Layout(
            AdapterBank(names, sites, norms),
            self.layers,
            spans,
            self.layer[here],
            index[here],
            self.scaling[here],
            tuple(self.columns[column] for column in columns),
        )

    def _is_in(self, bank: AdapterBank) -> bool:
        """Whether a whole bank has in this selection's columns what the selection has."""
        chosen = set(self.columns)
        return (
            self.bank.names == tuple(bank.names[column] for column in self.columns)
            and self.bank.sites.keys() == bank.sites.keys()
            and all(
                _ids(own, {*own.owners}) == _ids(bank.sites[path], chosen)
                for path, own in self.bank.sites.items()
            )
        )

    def once(self, make: Callable[[Layout], T]) -> T:
        """What `make` derives from this layout, from the first time it was asked for."""
        if make not in self._derived:
            self._derived[make] = make(self)
        return self._derived[make]

    def for_a_pass(self) -> Layout:
        """The same layout, with which everything goes that a pass of transformers' modules makes of it: they
        stack each site's factors, as much memory again."""
        sites = {path: SiteFactors(own.parts, own.owners) for path, own in self.bank.sites.items()}
        return replace(self, bank=replace(self.bank, sites=sites))

    @property
    def dtype(self) -> torch.dtype:
        """What z is computed in."""
        return next((site.parts[0].A.dtype for site in self.bank.sites.values()), torch.float32)

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
        own = (self.bank.sites[path].prototype.to(self.scaling.device) for path in self.spans)
        return torch.cat([self.scaling[:0], *own])

    def scales(self, gates: torch.Tensor) -> torch.Tensor:
        """[B, L, N] gates -> [B, Z]: what multiplies x A^T, gate times the adapter's own scaling."""
        return (gates[:, self.layer, self.adapter_index] * self.scaling).to(self.dtype)


def _ids(site: SiteFactors, owners: Collection[int]) -> list[int]:
    """Of the factors that these adapters have at a site."""
    parts = zip(site.parts, site.owners, strict=True)
    return [id(part) for part, owner in parts if part.rank and owner in owners]


@dataclass(frozen=True)
class GateTelemetry:
    """What one pass says about its last tokens, from which every contribution follows."""

    # z = (x A^T) * s of each site, [B, Z].
    coded: torch.Tensor  # [B, Z]
    # Sum over the layout's sites of a layer of |W0 x|^2, [B, L] float32.
    energy: torch.Tensor  # [B, L]
    # What the pass ran under.
    layout: Layout
    # What follows, [B, L, N], where the pass computed it; see composer.model.contribution.
    contribution: torch.Tensor | None = None


def layer_energy(norms: torch.Tensor, layer: torch.Tensor, layers: int) -> torch.Tensor:
    """|W0 x| per site, [B, S], and each site's layer, [S] -> the energies of a Reading, [B, L] float32."""
    total = norms.new_zeros(len(norms), layers, dtype=torch.float32)
    return total.index_add_(1, layer, norms.float().square())

"""Routes in buffers that stay at their addresses: a graph serves any routes and any adapters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from weakref import ref

import torch

from composer.adapters.bank import AdapterBank
from composer.model.rank_layout import Layout
from composer.model.runtime.graphs.rank_padding import Bucket, RankPadding
from composer.model.runtime.token_routing import TokenRouter, grams_of

# Adapters that a routed row may have are padded to one of these. Beyond the last, passes run uncaptured.
ADAPTERS = (4, 8, 16, 32, 64)


def adapter_bucket(count: int) -> int | None:
    """The least of ADAPTERS that is no less; None beyond the last."""
    return next((each for each in ADAPTERS if count <= each), None)


@dataclass
class RoutedAxis:
    """What scores read of the adapters on a bucket's rank axis: which columns are whose, and of what size.

    Everything is a buffer; one layout's numbers stand in them at a time.
    """

    bucket: Bucket
    adapters: int
    layout: Layout
    _loaded: ref[Layout] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, axis: Layout, bucket: Bucket, adapters: int) -> RoutedAxis:
        """axis: of the bucket, under no adapter."""
        index, rank = torch.zeros_like(axis.adapter_index), bucket.rank
        numbers = torch.zeros(2, bucket.width, device=index.device)
        names = tuple(map(str, range(adapters)))
        layout = replace(
            axis, bank=AdapterBank(names, axis.bank.sites), adapter_index=index, scaling=numbers[0]
        )
        # In the place of what a layout makes of its own factors.
        vars(layout)["prototype"] = numbers[1]
        grams = torch.zeros(len(bucket.paths), rank, rank, device=index.device)
        layout._derived[grams_of] = dict(zip(bucket.paths, grams, strict=True))
        return cls(bucket, adapters, layout)

    def load(self, layout: Layout, padding: RankPadding) -> None:
        """Copy what a layout's adapters are like, unless that is what stands here."""
        if self._loaded is not None and self._loaded() is layout:
            return
        self._loaded = None  # they hold no layout at all while one is copied
        mine = self.layout
        mine.adapter_index.copy_(padding.adapter_index)
        mine.scaling.copy_(padding.scaling)
        mine.prototype.zero_().index_copy_(0, padding.columns, layout.prototype.to(mine.prototype.device))
        targets, known = mine.once(grams_of), layout.once(grams_of)
        for path, gram in known.items():
            targets[path].zero_()[: len(gram), : len(gram)] = gram
        self._loaded = ref(layout)

    def router(self, rows: int) -> TokenRouter:
        """A router of so many rows, none of which is routed, in buffers of its own."""
        device, sites = self.layout.adapter_index.device, len(self.bucket.paths)
        each = (rows, 1, 1)
        return TokenRouter(
            self.layout,
            {place * self.bucket.rank: place for place in range(sites + 1)},
            torch.zeros(rows, sites, self.adapters, dtype=torch.bool, device=device),
            torch.ones(each, device=device),
            torch.zeros(rows, sites, 1, device=device),
            torch.zeros(each, dtype=torch.bool, device=device),
            True,
            True,
            torch.full(each, self.adapters, device=device),
        )


def load_routes(router: TokenRouter, own: TokenRouter) -> None:
    """Copy the routes of a batch into a router of a bucket. Its further rows are not routed."""
    rows, _, count = own.part.shape
    router.part.zero_()
    router.part[:rows, :, :count] = own.part
    router.keep[:rows], router.swing[:rows], router.by_norm[:rows] = own.keep, own.swing, own.by_norm
    assert router.top is not None
    router.top[:rows] = router.part.shape[2] if own.top is None else own.top

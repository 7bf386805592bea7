"""Adapters in buffers that stay at their addresses: other adapters are other numbers in the same graph.

All buckets share one memory, in which one set of adapters stands at a time. Another set is copied into it
when a batch runs under it. On an 8B-shaped base three adapters of rank 16 are 0.25 GB, a fraction of a
millisecond.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch.nn import functional as F

from composer.adapters.bank import AdapterBank, LoraFactors, SiteFactors
from composer.model.rank_layout import Layout
from composer.model.runtime.graphs.opaque import compilable
from composer.model.runtime.graphs.rank_padding import Bucket, RankPadding
from composer.model.runtime.graphs.routing import RoutedAxis
from composer.model.runtime.llama.families import Block
from composer.model.runtime.llama.fused_linear import LinearGroup
from composer.model.runtime.llama.layer import Group, Layer, SiteSlice
from composer.model.runtime.llama.layer_table import GROUPS, LayerSegment, LayerTable
from composer.model.runtime.llama.runner import LlamaRunner

# Buffers begin at multiples of so many elements: kernels read 16 bytes at once.
ALIGNMENT = 64
# Tables that are kept; one takes no memory of its own.
MOST_TABLES = 16


class _BucketSegment(LayerSegment):
    """One layer. Code for it depends on the whole rank axis too, whose width is the stride of its scales."""

    width = 0

    @cached_property
    def kind(self) -> tuple:
        return (self.width, *(layer.kind for layer in self.layers))


class BucketTable(LayerTable):
    """A table whose layers are compiled one by one: within a graph, calls of compiled code cost nothing."""

    @cached_property
    def segments(self) -> tuple[LayerSegment, ...]:
        made = [_BucketSegment(slice(at, at + 1), (layer,)) for at, layer in enumerate(self.layers)]
        for segment in made:
            object.__setattr__(segment, "width", len(self.layout.adapter_index))
        return tuple(made)


class TableRunner(LlamaRunner):
    """A LlamaRunner that runs under one table. It shares everything else with the runner it is made from."""

    def __init__(self, inner: LlamaRunner, table: LayerTable):
        vars(self).update(vars(inner))
        self._fixed = table
        features = inner.model.model.get_output_embeddings().out_features
        self.head = compilable(inner.head, features, inner.norm)

    def table(self, layout: Layout) -> LayerTable:
        return self._fixed


@dataclass(frozen=True)
class BufferedAdapters:
    """A bucket's buffers, and the runner that reads them."""

    bucket: Bucket
    runner: TableRunner
    table: LayerTable
    # Per site A [R, d_in] and B [d_out, R], in the buffers.
    sites: dict[str, tuple[torch.Tensor, torch.Tensor]]
    # All of the bucket's buffers, one after another.
    memory: torch.Tensor
    _axes: dict[int, RoutedAxis] = field(default_factory=dict)

    def axis(self, adapters: int) -> RoutedAxis:
        """What token-routed rows among so many adapters read; one of routing.ADAPTERS."""
        if adapters not in self._axes:
            self._axes[adapters] = RoutedAxis.of(self.table.layout, self.bucket, adapters)
        return self._axes[adapters]

    def load(self, layout: Layout) -> None:
        """Copy a layout's factors into the buffers. The columns that it does not have are 0."""
        self.memory.zero_()
        targets, sources = [], []
        for path, site in layout.bank.sites.items():
            start = 0
            for part in site.parts:
                if part.rank:
                    A, B = self.sites[path]
                    targets += [A[start : start + part.rank], B[:, start : start + part.rank]]
                    sources += [part.A, part.B]
                start += part.rank
        if targets:
            torch._foreach_copy_(targets, sources)

    def layout(self, padding: RankPadding, names: Sequence[str]) -> Layout:
        """The padded rank axis of a layout whose factors the buffers hold."""
        axis = self.table.layout
        return replace(
            axis,
            bank=AdapterBank(tuple(names), axis.bank.sites),
            layer=padding.layer,
            adapter_index=padding.adapter_index,
            scaling=padding.scaling,
        )


class AdapterBuffers:
    """The buffers of a base's adapters, by bucket.

    version: another number whenever the memory moved, which it does when a larger bucket than any before is
    asked for. What was captured before reads the old memory.
    """

    def __init__(self, inner: LlamaRunner):
        self.version = 0
        self._inner = inner
        nobody = inner.model.layout(AdapterBank())
        bare = LayerTable.of(inner.blocks, nobody, inner._weights, inner._base)
        self._bare = replace(bare, layers=tuple(_compilable(inner, layer) for layer in bare.layers))
        self._memory: torch.Tensor | None = None
        self._made: OrderedDict[tuple[Bucket, torch.dtype], BufferedAdapters] = OrderedDict()

    @property
    def memory(self) -> torch.Tensor | None:
        """All buffers' memory; None before a bucket has any."""
        return self._memory

    def of(self, bucket: Bucket, dtype: torch.dtype) -> BufferedAdapters:
        """The bucket's buffers for factors of this type. What they hold is whatever was loaded last."""
        key = bucket, dtype
        if key not in self._made:
            self._made[key] = self._make(bucket, dtype)
            if len(self._made) > MOST_TABLES:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]

    def _make(self, bucket: Bucket, dtype: torch.dtype) -> BufferedAdapters:
        shapes = [shape for group in self._groups(bucket) for shape in group.shapes]
        sizes = [-(-rows * columns // ALIGNMENT) * ALIGNMENT for rows, columns in shapes]
        memory = self._reserve(sum(sizes), dtype)
        starts = [0, *accumulate(sizes)]
        buffers = iter(
            memory[start : start + rows * columns].view(rows, columns)
            for start, (rows, columns) in zip(starts, shapes, strict=False)
        )
        sites: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        layers, spans, end = list(self._bare.layers), [], 0
        for index in range(len(layers)):
            origin, changed = end, {}
            for group in self._groups(bucket, index):
                A, B = next(buffers), next(buffers)
                changed[group.field] = group.under(layers[index], A, B, end - origin, bucket.rank, sites)
                end += len(A)
            layers[index] = replace(layers[index], **changed)
            spans.append((origin, end))
        table = BucketTable(_axis(self._bare.layout, bucket, sites), tuple(layers), tuple(spans))
        runner = TableRunner(self._inner, table)
        return BufferedAdapters(bucket, runner, table, sites, memory)

    def _groups(self, bucket: Bucket, only: int | None = None) -> list[_GroupSites]:
        """The groups that have sites of the bucket, in the order of the rank axis; only: of one layer."""
        return [
            group
            for index, block in enumerate(self._inner.blocks)
            if only in (None, index)
            for group in _GroupSites.of(block, self._bare.layers[index], bucket)
        ]

    def _reserve(self, elements: int, dtype: torch.dtype) -> torch.Tensor:
        """The first elements of the memory. All buckets' buffers begin there."""
        device = self._bare.layout.adapter_index.device
        if not elements:
            return torch.zeros(0, dtype=dtype, device=device)
        if self._memory is None or self._memory.dtype != dtype or len(self._memory) < elements:
            if self._memory is not None:
                self.version += 1
                self._made.clear()
            self._memory = None  # freed before more is asked for
            self._memory = torch.zeros(elements, dtype=dtype, device=device)
        return self._memory[:elements]


@dataclass(frozen=True)
class _GroupSites:
    """A group's linear layers, and which of them are sites of a bucket."""

    field: str
    widths: tuple[int, ...]
    # The sites' places in the group, and their paths.
    here: tuple[tuple[int, str], ...]
    shapes: tuple[tuple[int, int], tuple[int, int]]  # of A and B

    @classmethod
    def of(cls, block: Block, layer: Layer, bucket: Bucket) -> list[_GroupSites]:
        found, paths = [], frozenset(bucket.paths)
        for names, own in zip(GROUPS, _group_fields(layer), strict=True):
            gated = [block.module.get_submodule(name) for name in names]
            here = tuple((place, each.path) for place, each in enumerate(gated) if each.path in paths)
            if here:
                rank, widths = len(here) * bucket.rank, getattr(layer, own).widths
                found.append(cls(own, widths, here, ((rank, gated[0].base.in_features), (sum(widths), rank))))
        return found

    def under(
        self,
        layer: Layer,
        A: torch.Tensor,
        B: torch.Tensor,
        start: int,
        rank: int,
        sites: dict[str, tuple[torch.Tensor, torch.Tensor]],
    ) -> Group:
        """The layer's group with these buffers, which begin at `start` of the layer's part of the axis.

        Adds each site's part of them to `sites`.
        """
        slices = []
        for order, (place, path) in enumerate(self.here):
            left, top = sum(self.widths[:place]), order * rank
            right, bottom = left + self.widths[place], top + rank
            slices.append(SiteSlice(left, right, top, bottom))
            sites[path] = A[top:bottom], B[left:right, top:bottom]
        bare: Group = getattr(layer, self.field)
        with_adapters = getattr(bare.product, "with_adapters", None)
        product = with_adapters(A) if with_adapters else BufferedProduct(bare.product, A)
        return replace(bare, product=product, B=B, start=start, end=start + len(A), sites=tuple(slices))


class BufferedProduct:
    """A group's product, and x A^T with an A that is written in place."""

    gates = False

    def __init__(self, product: LinearGroup, A: torch.Tensor):
        self._product, self._A = product, A

    def __call__(self, x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._product(x)[0], F.linear(x.to(self._A.dtype), self._A)


def _group_fields(layer: Layer) -> list[str]:
    return [each.name for each in fields(layer) if isinstance(getattr(layer, each.name), Group)]


def _compilable(inner: LlamaRunner, layer: Layer) -> Layer:
    groups: dict[str, Group] = {name: getattr(layer, name) for name in _group_fields(layer)}
    made = {
        name: replace(group, product=compilable(group.product, sum(group.widths), layer.attention_norm))
        for name, group in groups.items()
    }
    return replace(layer, **made)


def _axis(bare: Layout, bucket: Bucket, sites: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Layout:
    """The bucket's rank axis, under no adapter yet."""
    spans = {path: (at * bucket.rank, (at + 1) * bucket.rank) for at, path in enumerate(bucket.paths)}
    none = torch.zeros(bucket.width, dtype=torch.int64, device=bare.adapter_index.device)
    factors = {
        path: SiteFactors((LoraFactors(A, B, 0.0),), (0,))
        for path, (A, B) in list(sites.items())[:1]  # for their type
    }
    return replace(
        bare,
        bank=AdapterBank((), factors),
        spans=spans,
        layer=none,
        adapter_index=none,
        scaling=none.float(),
    )

"""The decoder layers under a bank, as run_layer takes them, and the plan of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from composer.model.gated_model import GatedLinear
from composer.model.rank_layout import Layout
from composer.model.runtime.llama.families import Block
from composer.model.runtime.llama.fused_linear import BaseWeights, fuse_linears
from composer.model.runtime.llama.layer import Group, Layer, SiteSlice, TokenFactor
from composer.model.runtime.nf4.stacking import exact_on_cpu, stack
from composer.model.runtime.token_routing import TokenRouter

# Linear layers with the same input, in the order in which they run.
GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


# The most layers that are compiled as one. A call of compiled code costs as much as the small kernels of a
# layer; the compiler takes about two seconds per layer.
SEGMENT_LAYERS = 12
# So many layers' compilation is a fair price for one call less.
CALL_LAYERS = 4


@dataclass(frozen=True)
class LayerSegment:
    """Consecutive layers, at the indices `at`. Segments of the same kind share their compiled code."""

    at: slice
    layers: tuple[Layer, ...]

    @cached_property
    def kind(self) -> tuple:
        return tuple(layer.kind for layer in self.layers)


@dataclass(frozen=True)
class LayerTable:
    """The layers under a bank."""

    layout: Layout
    layers: tuple[Layer, ...]
    # Each layer's part of Z.
    spans: tuple[tuple[int, int], ...]

    @cached_property
    def segments(self) -> tuple[LayerSegment, ...]:
        """The layers in runs of one length; the last may be shorter."""
        sizes = range(min(SEGMENT_LAYERS, len(self.layers)), 0, -1)
        return min((self._split(size) for size in sizes), key=_cost)

    def _split(self, size: int) -> tuple[LayerSegment, ...]:
        places = (slice(start, start + size) for start in range(0, len(self.layers), size))
        return tuple(LayerSegment(at, self.layers[at]) for at in places)

    @classmethod
    def of(
        cls, blocks: Sequence[Block], layout: Layout, weights: str, base: BaseWeights, joined: bool = True
    ) -> LayerTable:
        """weights: as in composer.model.runtime.llama.fused_linear. joined: a group's B are one matrix."""
        layers, spans, end = [], [], 0
        for block in blocks:
            start = end
            groups = []
            for names in GROUPS:
                gated = [block.module.get_submodule(name) for name in names]
                group = _group(gated, layout, start, weights, base, joined)
                groups.append(group)
                end = max(end, start + group.end)
            layers.append(Layer(*groups, **block.norms._asdict(), window=block.window, rope=block.rope))
            spans.append((start, end))
        return cls(layout, tuple(layers), tuple(spans))


@dataclass(frozen=True)
class DecodePlan:
    """What a batch decodes with: the table, the rows' scales [B, Z] (`flat`; `scales` per layer), and the
    token router (None where no row has one)."""

    table: LayerTable
    flat: torch.Tensor
    scales: tuple[torch.Tensor, ...]
    routing: TokenRouter | None = None

    @classmethod
    def of(cls, table: LayerTable, flat: torch.Tensor, routing: TokenRouter | None = None) -> DecodePlan:
        return cls(table, flat, tuple(flat[:, start:end] for start, end in table.spans), routing)

    def factors(self, row: torch.Tensor | None = None) -> tuple[TokenFactor | None, ...]:
        """Each layer's factor, see TokenRouter; None for each where no row is token-routed."""
        if self.routing is None:
            return (None,) * len(self.table.spans)
        return tuple(self.routing.of_layer(start, row) for start, _ in self.table.spans)


def stack_layers(blocks: Sequence[Block], base: BaseWeights) -> None:
    """Stack the groups that are in nf4 on a CPU: before other threads run their modules, which it changes."""
    for layers in grouped_layers(blocks):
        if exact_on_cpu(layers):
            base.once(layers, lambda layers=layers: stack(layers))


def grouped_layers(blocks: Sequence[Block]) -> Iterator[list[nn.Module]]:
    """The base's Linear layers that read the same input, group by group."""
    for block in blocks:
        for names in GROUPS:
            yield [block.module.get_submodule(name).base for name in names]


def _cost(segments: Sequence[LayerSegment]) -> int:
    """What a division costs, in compiled layers. Segments of one kind are compiled once."""
    compiled = {segment.kind: len(segment.layers) for segment in segments}
    return sum(compiled.values()) + CALL_LAYERS * len(segments)


def _group(
    gated: list[GatedLinear], layout: Layout, origin: int, weights: str, base: BaseWeights, joined: bool
) -> Group:
    """The group of these layers under a bank. origin: the start of their decoder layer's part of Z."""
    bases, widths = [layer.base for layer in gated], tuple(layer.base.out_features for layer in gated)
    here = [(place, layer.path) for place, layer in enumerate(gated) if layer.path in layout.spans]
    if not here:
        return Group(fuse_linears(bases, None, weights, base), widths)
    sites = {path: layout.bank.sites[path].parts for _, path in here}
    start, end = layout.spans[here[0][1]][0], layout.spans[here[-1][1]][1]
    places = []
    for place, path in here:
        left, (top, bottom) = sum(widths[:place]), layout.spans[path]
        places.append(SiteSlice(left, left + widths[place], top - start, bottom - start))
    apart = tuple(torch.cat([part.B for part in parts], dim=1) for parts in sites.values())  # of [d_out, R]
    A = torch.cat([part.A for parts in sites.values() for part in parts])  # [R, d_in]
    return Group(
        fuse_linears(bases, A, weights, base),
        widths,
        _joined(places, apart, sum(widths), end - start) if joined else None,
        start - origin,
        end - origin,
        tuple(places),
        () if joined else apart,
    )


def _joined(
    places: Sequence[SiteSlice], apart: Sequence[torch.Tensor], d_out: int, rank: int
) -> torch.Tensor:
    """The sites' B as one matrix, with zeros between them, [d_out, R]."""
    B = apart[0].new_zeros(d_out, rank)
    for place, own in zip(places, apart, strict=True):
        B[place.left : place.right, place.top : place.bottom] = own
    return B

"""A base's weights and a bank's factors as step.cpp reads them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import nn

from composer.adapters.bank import LoraFactors, SiteFactors
from composer.model.gated_model import GatedLinear
from composer.model.rank_layout import Layout
from composer.model.runtime.llama.fused_linear import BaseWeights
from composer.model.runtime.llama.layer_table import GROUPS
from composer.model.runtime.llama.runner import LlamaRunner
from composer.model.runtime.native import structures as c
from composer.model.runtime.native.storage import (
    StoredMatrix,
    stack,
    store_as_floats,
    store_as_loaded,
    store_exactly,
    store_int8,
    store_nf4,
    store_plainly,
)
from composer.model.runtime.nf4.stacking import exact_on_cpu
from composer.model.runtime.nf4.stacking import stack as stack_nf4

Store = Callable[[torch.Tensor], StoredMatrix]
Stored = Callable[[], StoredMatrix]
# What a token reads: the base's weights in the fewest bits that hold them exactly, as they are loaded, or
# rounded to int8 where they are not held in as few bits already. Layers in nf4 are read in it.
STORES: dict[str, Store] = {"same": store_exactly, "float32": store_as_loaded, "int8": store_int8}

# The fields of structures.Layer that hold the groups, in the order of GROUPS.
FIELDS = ("qkv", "o", "gate_up", "down")


@dataclass(frozen=True)
class BaseTable:
    """A base as the step reads it, without adapters."""

    # Without layers, which StepTable adds.
    model: c.Model
    layers: tuple[c.Layer, ...]
    # The gated layers of each group of each decoder layer.
    groups: tuple[tuple[tuple[GatedLinear, ...], ...], ...]
    vocabulary: int
    # Bytes of the weights in their storages, the head's included.
    bytes: int
    kept: c.Kept
    # A and B^T of the adapters' factors in their storages, for as long as a bank has them. Sets of adapters
    # come and go with every text, and a new one stops all texts.
    factors: WeakKeyDictionary[LoraFactors, tuple[StoredMatrix, StoredMatrix]] = field(
        default_factory=WeakKeyDictionary
    )

    def stored(self, part: LoraFactors) -> tuple[StoredMatrix, StoredMatrix]:
        """A [r, d_in] and B^T [r, d_out] of an adapter at a site."""
        if part not in self.factors:
            A, B = part.A.float().contiguous(), part.B.float().t().contiguous()
            self.factors[part] = store_as_floats(A), store_plainly(B)
        return self.factors[part]

    @classmethod
    def of(cls, runner: LlamaRunner, weights: str, check: Callable[[], object] = lambda: None) -> BaseTable:
        """The table of a base that NativeRunner fits. Takes about a second per 100M parameters in float32.

        weights: a key of STORES. check: called before each layer; what it raises ends the work.
        """
        kept, shape, shared = c.Kept(), runner.shape, BaseWeights.of(runner.model.model)
        layers, groups, size = [], [], 0
        for block in runner.blocks:
            check()
            gated = tuple(tuple(block.module.get_submodule(name) for name in names) for names in GROUPS)
            bases = [[each.base for each in group] for group in gated]
            stored = [shared.once(*_storing(linears, weights, shared)) for linears in bases]
            size += sum(each.bytes for each in stored)
            linear = [
                c.Linear(_matrix(matrix, kept, linears))
                for matrix, linears in zip(stored, bases, strict=True)
            ]
            norms = (kept.floats(norm) for norm in block.norms)
            layers.append(c.Layer(*linear, *norms, block.window or 0, block.rope))
            groups.append(gated)
        head = runner.model.model.get_output_embeddings()
        unembedding = shared.once(*_storing([head], weights, shared))
        model = c.Model(
            len(layers),
            runner.embedding.shape[1],
            shape.heads,
            shape.kv_heads,
            shape.width,
            groups[0][FIELDS.index("down")][0].base.in_features,
            int(shape.activation == "gelu_tanh"),
            shape.eps,
            shape.scaling,
            shape.embedding_scale,
            0.0,
            None,
            kept.floats(runner.embedding),
            kept.floats(runner.norm),
            _matrix(unembedding, kept, [head]),
        )
        return cls(model, tuple(layers), tuple(groups), unembedding.rows, size + unembedding.bytes, kept)


@dataclass(frozen=True)
class StepTable:
    """The base under a layout."""

    model: c.Model
    layout: Layout
    base: BaseTable
    kept: c.Kept

    @classmethod
    def of(cls, base: BaseTable, layout: Layout) -> StepTable:
        kept = c.Kept()
        layers = (c.Layer * len(base.layers))(*base.layers)
        places = {path: place for place, path in enumerate(layout.spans)}
        origin = 0
        for layer, groups in zip(layers, base.groups, strict=True):
            layer.origin = origin
            for name, group in zip(FIELDS, groups, strict=True):
                linear: c.Linear = getattr(layer, name)
                _attach(linear, group, layout, places, layer.origin, base, kept)
                origin += linear.rank
        model = c.Model()
        ctypes.pointer(model)[0] = base.model
        model.layer = ctypes.cast(layers, ctypes.POINTER(c.Layer))
        kept.parts.append(layers)
        return cls(model, layout, base, kept)


def _attach(
    linear: c.Linear,
    group: Sequence[GatedLinear],
    layout: Layout,
    places: Mapping[str, int],
    origin: int,
    base: BaseTable,
    kept: c.Kept,
) -> None:
    """Point a group's layers at their adapters' factors.

    places: of each site among the layout's. origin: the start of their decoder layer on Z.
    """
    slices, factors, left, rank = [], list[StoredMatrix](), 0, 0
    for gated in group:
        right = left + gated.base.out_features
        if gated.path in layout.spans:
            start, end = layout.spans[gated.path]
            if not slices:
                linear.start = start - origin
            site = layout.bank.sites[gated.path]
            stored = [base.stored(part) for part in site.parts]
            B = _below([own for _, own in stored])  # [R, d_out]
            place, parts = places[gated.path], _parts(site, kept)
            slices.append(
                c.SiteSlice(left, right, rank, rank + end - start, place, _matrix(B, kept), len(parts), parts)
            )
            factors += [own for own, _ in stored]
            rank += end - start
        left = right
    if slices:
        array = (c.SiteSlice * len(slices))(*slices)
        kept.parts.append(array)
        linear.A = _matrix(_below(factors), kept)
        linear.rank, linear.sites = rank, len(slices)
        linear.site = ctypes.cast(array, ctypes.POINTER(c.SiteSlice))


def _parts(site: SiteFactors, kept: c.Kept) -> ctypes.Array[c.AdapterSlice]:
    """A site's adapters, in the order of its columns. Their grams last as long as the layout."""
    owned = zip(site.parts, site.owners, strict=True)
    parts = [c.AdapterSlice(owner, part.rank, part.gram.data_ptr()) for part, owner in owned if part.rank]
    array = (c.AdapterSlice * len(parts))(*parts)
    kept.parts.append(array)
    return array


def _below(parts: Sequence[StoredMatrix]) -> StoredMatrix:
    """The matrices below each other; as floats where their storages differ."""
    filled = [part for part in parts if part.rows] or parts[:1]
    return stack(filled) or store_as_loaded(torch.cat([part.weight() for part in filled]))


def _storing(
    linears: Sequence[nn.Linear], weights: str, shared: BaseWeights
) -> tuple[Sequence[nn.Linear], Stored, str]:
    """What BaseWeights.once is given for the layers' weights below each other."""
    if exact_on_cpu(linears):
        return linears, lambda: store_nf4(shared.once(linears, lambda: stack_nf4(linears))), "stored, nf4"
    store = STORES[weights]

    def make() -> StoredMatrix:
        parts = [store(linear.weight.detach()) for linear in linears]
        return stack(parts) or store(torch.cat([linear.weight.detach() for linear in linears]))

    return linears, make, f"stored, {weights}"


def _matrix(stored: StoredMatrix, kept: c.Kept, linears: Sequence[nn.Linear] = ()) -> c.Matrix:
    return c.Matrix(
        int(stored.storage),
        stored.rows,
        stored.columns,
        kept.pointer(stored.data),
        kept.pointer(stored.scale),
        kept.pointer(stored.offset),
        kept.floats(_bias(linears)),
    )


def _bias(linears: Sequence[nn.Linear]) -> torch.Tensor | None:
    if all(linear.bias is None for linear in linears):
        return None
    return torch.cat(
        [
            torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
            for linear in linears
        ]
    )

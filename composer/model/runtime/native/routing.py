"""The routes of a batch as step.cpp reads them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from composer.model.rank_layout import Layout
from composer.model.runtime.native import structures as c
from composer.model.runtime.token_routing import TokenRouter


@dataclass(frozen=True)
class RouterTable:
    """The structure that a step points to, and what keeps its memory."""

    pointer: ctypes._Pointer[c.Router]
    kept: c.Kept

    @classmethod
    def of(cls, router: TokenRouter, row: torch.Tensor | None = None) -> RouterTable:
        """row: whose each token is, [M]; None: token m is row m's."""
        kept, own = c.Kept(), router.layout.once(_LayoutTable.of)
        rows, sites, adapters = router.part.shape
        top = torch.full((rows,), adapters) if router.top is None else router.top.flatten()
        row = torch.arange(rows) if row is None else row
        made = c.Router(
            sites,
            adapters,
            kept.pointer(router.part.to(torch.uint8)[row].contiguous()),
            kept.floats(router.keep.flatten()[row]),
            kept.floats(router.swing.flatten(1)[row]),
            kept.pointer(router.by_norm.flatten().to(torch.uint8)[row]),
            kept.pointer(top.to(torch.int64)[row]),
            own.scaling,
            own.prototype,
        )
        kept.parts += [own, made]
        return cls(ctypes.pointer(made), kept)


@dataclass(frozen=True)
class _LayoutTable:
    """What all routes under a layout have in common, by address."""

    scaling: int | None
    prototype: int | None
    kept: c.Kept

    @classmethod
    def of(cls, layout: Layout) -> _LayoutTable:
        kept = c.Kept()
        return cls(
            kept.floats(layout.scaling),
            kept.floats(layout.prototype),
            kept,
        )

"""Several Linear layers as one: their weights below each other, their biases as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The matrices one below the other, without a copy where they lie so already: another runner of the same
    base joined them."""
    if not all(_follows(*pair) for pair in pairwise(parts)):
        return torch.cat(list(parts))
    first = parts[0]
    return first.as_strided((sum(map(len, parts)), first.shape[1]), (first.shape[1], 1))


def joined_bias(layers: Sequence[nn.Module]) -> torch.Tensor | None:
    """[O] of all layers, with zeros for those without one; None where none has one."""
    if all(layer.bias is None for layer in layers):
        return None
    like = next(layer.bias.data for layer in layers if layer.bias is not None)
    return torch.cat(
        [like.new_zeros(layer.out_features) if layer.bias is None else layer.bias.data for layer in layers]
    )


def _follows(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether both are in the same storage, the other right after the one."""
    return (
        one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        and one.storage_offset() + one.numel() == other.storage_offset()
    )

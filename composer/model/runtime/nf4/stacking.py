"""The weights of several nf4 layers with the same input as one matrix, of which the layers become views."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from composer.model.runtime.joining import joined, joined_bias
from composer.model.runtime.nf4.plan import BLOCK


class Stacked(NamedTuple):
    """Layers' weights, one below the other: no block crosses a row, so no weight changes."""

    packed: torch.Tensor  # [N, K / 2] uint8
    absmax: torch.Tensor  # [N, K / 64] float32
    bias: torch.Tensor | None  # [N]


def stackable(layers: Sequence[nn.Module]) -> bool:
    """Whether all are quantised layers of bitsandbytes in nf4, in blocks of 64 that do not cross rows, and
    compute in the same type."""
    if not all(_is_nf4(layer) for layer in layers):
        return False
    kinds = {layer.compute_dtype for layer in layers}
    return len(kinds) == 1 and kinds <= {torch.float32, torch.float16, torch.bfloat16}


def exact_on_cpu(layers: Sequence[nn.Module]) -> bool:
    """Whether all are stackable, on a CPU, and bitsandbytes multiplies their dequantised weights in float32,
    so that whoever does the same gets the same numbers."""
    return stackable(layers) and all(
        layer.weight.device.type == "cpu"
        and layer.compute_dtype == torch.float32
        and not getattr(layer, "support_avx512bf16_for_cpu", False)
        for layer in layers
    )


def dequantised(joint: Stacked) -> torch.Tensor:
    """The weights as float32, [N, K], by bitsandbytes."""
    import bitsandbytes  # noqa: F401 -- registers its operators

    shape = [len(joint.packed), 2 * joint.packed.shape[1]]
    return torch.ops.bitsandbytes.dequantize_4bit.default(
        joint.packed, joint.absmax, BLOCK, "nf4", shape, torch.float32
    )


@cache
def levels() -> torch.Tensor:
    """What the 16 codes stand for, float32."""
    from bitsandbytes.functional import get_4bit_type

    return get_4bit_type("nf4", device="cpu")


def _is_nf4(layer: nn.Module) -> bool:
    # By name, so that bitsandbytes is not imported for bases that do not use it.
    if type(layer).__name__ not in ("Linear4bit", "LinearNF4"):
        return False
    state = layer.weight.quant_state
    return (
        state is not None
        and layer.weight.dtype == torch.uint8
        and not getattr(state, "packing_format_for_cpu", False)
        and state.quant_type == "nf4"
        and state.blocksize == BLOCK
        and state.shape is not None
        and tuple(state.shape) == (layer.out_features, layer.in_features)
        and layer.in_features % BLOCK == 0
    )


def stack(layers: Sequence[nn.Module]) -> Stacked:
    """The layers' weights as one matrix. The layers go on as views of it, so memory holds them once.

    A layer whose absmax is quantised itself has it in float32 afterwards: the kernels then read one number a
    block, where they would look three up. That costs 0.4 bits a weight, and changes no bit of the weights.
    """
    widths = [layer.out_features for layer in layers]
    packed = joined([layer.weight.data.view(layer.out_features, -1) for layer in layers])
    absmax = joined([_absmax(layer).view(layer.out_features, -1) for layer in layers])
    for layer, own, scales in zip(layers, packed.split(widths), absmax.split(widths), strict=True):
        state = layer.weight.quant_state
        layer.weight.data = own.view(layer.weight.shape)
        state.absmax, state.nested, state.state2, state.offset = scales.reshape(-1), False, None, None
    return Stacked(packed, absmax, joined_bias(layers))


def _absmax(layer: nn.Module) -> torch.Tensor:
    """float32, [N K / 64]."""
    from bitsandbytes.functional import dequantize_blockwise

    state = layer.weight.quant_state
    if not state.nested:
        return state.absmax.float()
    return (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()

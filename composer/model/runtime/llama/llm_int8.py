"""bitsandbytes' LLM.int8 layers as a LinearGroup that never waits for the host, so that graphs record it.

LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339) rounds a row of inputs to 255 levels and leaves out those
from a threshold on, which are multiplied in their own type. bitsandbytes looks their columns up on the host.
But a rounded input is a number like any other: with the left out ones in their places, one product with the
weights gives the sum of both. A row then depends on no other row; in bitsandbytes, a column that one row
leaves out is left out for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from composer.model.runtime.joining import joined, joined_bias

# The levels of an int8 number on one side of zero.
LEVELS = 127


class Int8Weights(NamedTuple):
    """Layers' weights, one below the other: W = weight * scale."""

    weight: torch.Tensor  # [N, K] int8
    scale: torch.Tensor  # [N] float32
    bias: torch.Tensor | None  # [N]


class LlmInt8Linear:
    """Layers that read the same input as one product.

    The compiler follows it. One row then becomes a loop that reads each weight once, as int8. For several
    rows the weights are written in the type of x first.
    """

    gates = False
    traceable = True

    def __init__(self, layers: Sequence[nn.Module], A: torch.Tensor | None, joint: Int8Weights):
        """A: [R, K] all adapters' A for these layers. joint: of `stack_int8`."""
        self._threshold, self._joint, self._A = _threshold(layers[0]), joint, A

    @staticmethod
    def fits(layers: Sequence[nn.Module]) -> bool:
        """Whether all are joinable and on a card.

        A CPU has no graphs, and bitsandbytes' own products take half the time there.
        """
        return joinable(layers) and layers[0].weight.device.type == "cuda"

    def __call__(self, x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[M, K] -> all the layers side by side, [M, N], and x A^T, [M, R]."""
        weight, scale, bias = self._joint
        rounded = rounded_inputs(x, self._threshold)  # [M, K]
        if len(x) == 1 and torch.compiler.is_compiling():
            out = (rounded.float() * weight).sum(dim=1)[None] * scale  # [1, N]
        else:
            out = F.linear(rounded, (weight * scale[:, None]).to(x.dtype))  # [M, N]
        out = (out if bias is None else out + bias).to(x.dtype)
        return out, x[:, :0] if self._A is None else F.linear(x.to(self._A.dtype), self._A)


def joinable(layers: Sequence[nn.Module]) -> bool:
    """Whether all are LLM.int8 layers of bitsandbytes with the same threshold, and quantised."""
    return all(_is_int8(layer) and _threshold(layer) == _threshold(layers[0]) for layer in layers)


def rounded_inputs(x: torch.Tensor, threshold: float) -> torch.Tensor:
    """What LLM.int8 multiplies of each row, [M, K] as x: numbers from the threshold on as they are, the
    others rounded to 127 levels of the largest on each side of zero. A threshold of 0 rounds all.

    bitsandbytes reads x as float16 first, which this leaves out: in float32 a few levels are others.
    """
    full = x.float()
    apart = full.abs() >= (threshold if threshold > 0 else torch.inf)
    others = full.masked_fill(apart, 0)
    # A row of zeros stays one.
    largest = others.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.half).tiny)  # [M, 1]
    levels = (others * (LEVELS / largest)).round()
    return torch.where(apart, x, (levels * (largest / LEVELS)).to(x.dtype))


def stack_int8(layers: Sequence[nn.Module]) -> Int8Weights:
    """The layers' weights as one matrix. The layers go on as views of it, so memory holds them once."""
    for layer in layers:
        if layer.weight.CB is not None:
            layer.init_8bit_state()
    weight = joined([layer.state.CB for layer in layers])  # [N, K]
    scale = joined([layer.state.SCB[:, None] for layer in layers])[:, 0]  # [N]
    widths = [layer.out_features for layer in layers]
    for layer, own, its in zip(layers, weight.split(widths), scale.split(widths), strict=True):
        layer.state.CB, layer.state.SCB, layer.weight.data = own, its, own
    return Int8Weights(weight, scale / LEVELS, joined_bias(layers))


def waits_for_host(layers: Sequence[nn.Module]) -> bool:
    """Whether layers that share their input read numbers back in their products, which no graph may record.

    bitsandbytes' LLM.int8 does where it looks for outliers, that is with a threshold above 0.
    """
    return any(_threshold(layer) > 0 for layer in layers) and not LlmInt8Linear.fits(layers)


def _is_int8(layer: nn.Module) -> bool:
    # By name, so that bitsandbytes is not imported for bases that do not use it.
    return (
        type(layer).__name__ == "Linear8bitLt"
        and not layer.state.has_fp16_weights
        and layer.weight.dtype == torch.int8
    )


def _threshold(layer: nn.Module) -> float:
    return float(getattr(getattr(layer, "state", None), "threshold", 0.0) or 0.0)

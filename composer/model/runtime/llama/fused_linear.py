"""Products of one decoded token with the base's weights: layers that share their input become one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from composer.model.runtime.llama.onednn_linear import pack, packed_linear


class LinearGroup(Protocol):
    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, K] -> W x of all the layers side by side, [B, O], and x A^T, [B, R]."""
        ...


def fuse_linears(
    layers: Sequence[nn.Module], A: torch.Tensor | None = None, weights: str = "same"
) -> LinearGroup:
    """One product for Linear layers that read the same input, and for the factors beside them.

    A: [R, K] all adapters' A for these layers; None for none. weights: "same" as the layers', or "int8":
    weight-only, a scale per output row; "apart": the layers are called one by one, so nothing is copied.
    Layers that are not plain dense ones (bitsandbytes) always are.
    """
    first = layers[0]
    if weights == "apart" or not all(type(layer) is nn.Linear for layer in layers):
        return UnfusedLinear(layers, A)
    if A is None:
        A = first.weight.new_empty(0, first.in_features)
    if weights == "int8":
        return Int8Linear(layers, A)
    return CpuFusedLinear(layers, A) if first.weight.device.type == "cpu" else GpuFusedLinear(layers, A)


class CpuFusedLinear:
    """On a CPU: the layers' weights and A as the rows of one matrix, because there every further product
    costs more than its bytes. The layers go on as views of it; packed for several rows, it is there twice."""

    def __init__(self, layers: Sequence[nn.Linear], A: torch.Tensor):
        # Two blocks a thread: one keeps its thread busy, two also keep what it reads in its cache.
        self._chunks = 2 * torch.get_num_threads()
        rows = sum(layer.out_features for layer in layers)
        spare = A.new_zeros(-(rows + len(A)) % self._chunks, A.shape[1])
        self._weight = _stacked(layers, [A, spare] if len(A) + len(spare) else [])  # [O + R, K]
        self._bias, self._rows, self._rank = _bias(layers), rows, len(A)
        self._packed = pack(self._weight)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # One row's blocks the compiler turns into loops of its own, which nothing else is as quick as.
        loops = len(x) == 1 and torch.compiler.is_compiling()
        if self._packed and not loops:
            both = packed_linear(x, self._weight)  # [B, O + R]
        else:
            both = in_blocks(x, self._weight, self._chunks)
        out = both[:, : self._rows]
        return _biased(out, self._bias), both[:, self._rows : self._rows + self._rank]


def in_blocks(x: torch.Tensor, weight: torch.Tensor, count: int) -> torch.Tensor:
    """x W^T, [B, K] by [O, K], as a batch of `count` products with as many rows of W each.

    BLAS splits a product of few rows badly over the threads of some CPUs, and a product of one row not at
    all; a batch it spreads evenly. `benchmarks/RESULTS.md` says which form was fastest there.
    """
    blocks = weight.view(count, -1, weight.shape[1]).transpose(1, 2)  # [c, K, O / c]
    out = torch.bmm(x.expand(count, -1, -1), blocks)  # [c, B, O / c]
    return out.transpose(0, 1).reshape(len(x), -1)


class GpuFusedLinear:
    """The layers' weights as one matrix, A as another. The layers go on as views of the first."""

    def __init__(self, layers: Sequence[nn.Linear], A: torch.Tensor):
        self._weight, self._bias, self._A = _stacked(layers, []), _bias(layers), A

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.linear(x, self._weight, self._bias), F.linear(x, self._A)


class Int8Linear:
    """Weight-only int8: symmetric, a scale per output row, activations rounded to bfloat16.

    A quarter of float32's bytes, which is what decoding one token waits for. A is rounded like the rest.
    """

    def __init__(self, layers: Sequence[nn.Linear], A: torch.Tensor):
        weight = torch.cat([*(layer.weight.data.float() for layer in layers), A.float()])  # [O + R, K]
        # Rounded to what the product takes before it is divided by, so that its rounding does no harm.
        self._scale = (weight.abs().amax(dim=1).clamp_min(1e-20) / 127).to(torch.bfloat16)  # [O + R]
        self._weight = (weight / self._scale[:, None].float()).round().clamp(-127, 127).to(torch.int8)
        self._bias, self._rows = _bias(layers), len(weight) - len(A)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch._weight_int8pack_mm(x.to(torch.bfloat16), self._weight, self._scale).to(x.dtype)
        return _biased(both[:, : self._rows], self._bias), both[:, self._rows :]


class UnfusedLinear:
    """Layers of any kind, one after another."""

    def __init__(self, layers: Sequence[nn.Module], A: torch.Tensor | None):
        self._layers, self._A = list(layers), A

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = torch.cat([layer(x) for layer in self._layers], dim=-1)  # [B, O]
        return out, x[:, :0] if self._A is None else F.linear(x.to(self._A.dtype), self._A)


def _stacked(layers: Sequence[nn.Linear], below: list[torch.Tensor]) -> torch.Tensor:
    """The weights and what comes below them as one matrix, [rows, K], of which the layers become views."""
    if len(layers) == 1 and not below:
        return layers[0].weight.data
    whole = torch.cat([*(layer.weight.data for layer in layers), *below])
    start = 0
    for layer in layers:
        layer.weight.data = whole[start : start + layer.out_features]
        start += layer.out_features
    return whole


def _bias(layers: Sequence[nn.Linear]) -> torch.Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.data
        for layer in layers
    ]
    return torch.cat(parts)


def _biased(out: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return out if bias is None else out + bias

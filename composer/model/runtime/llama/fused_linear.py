"""Products of one decoded token with the base's weights: layers that share their input become one matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from composer.model.runtime.llama.onednn_linear import pack, packed_linear, packed_pair
from composer.model.runtime.nf4.linear import Nf4Linear
from composer.model.runtime.nf4.stacking import stack

T = TypeVar("T")


class LinearGroup(Protocol):
    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, K] -> W x of all the layers side by side, [B, O], and x A^T, [B, R]."""
        ...


class BaseWeights:
    """What is made of a base's weights once, whatever adapters come and go: one entry for each group of
    layers."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], Any] = {}

    def once(self, layers: Sequence[nn.Module], make: Callable[[], T]) -> T:
        """The result of `make` for these layers, from the first time it was asked for."""
        key = tuple(map(id, layers))  # the base keeps its layers alive, and this goes with the base
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def fuse_linears(
    layers: Sequence[nn.Module],
    A: torch.Tensor | None = None,
    weights: str = "same",
    base: BaseWeights | None = None,
) -> LinearGroup:
    """One product for Linear layers that read the same input, and for the adapters' A beside them.

    A: [R, K] all adapters' A for these layers; None for none. weights: "same" as the layers', or "int8":
    weight-only, a scale per output row; "apart": the layers are called one by one, so nothing is copied.
    Layers that are neither plain dense ones nor bitsandbytes' nf4 on a GPU always are. base: what was made of
    these layers for another bank already.
    """
    first, base = layers[0], base or BaseWeights()
    if weights != "apart" and Nf4Linear.fits(layers):
        return Nf4Linear(layers, A, base.once(layers, lambda: stack(layers)))
    if weights == "apart" or not all(type(layer) is nn.Linear for layer in layers):
        return UnfusedLinear(layers, A)
    if A is None:
        A = first.weight.new_empty(0, first.in_features)
    if weights == "int8":
        return Int8Linear(layers, A, base)
    kind = CpuFusedLinear if first.weight.device.type == "cpu" else GpuFusedLinear
    return kind(layers, A, base)


class CpuFusedLinear:
    """On a CPU, for one row: the layers' weights and A as the rows of one matrix, because there a further
    product costs more than its bytes. The layers become views of that matrix, which is copied for each bank.

    For several rows, and for prompts: a packed copy of the weights, made once, and one of A for each bank.
    """

    def __init__(self, layers: Sequence[nn.Linear], A: torch.Tensor, base: BaseWeights):
        # Two blocks a thread: one keeps its thread busy, two also keep what it reads in its cache.
        self._chunks = 2 * torch.get_num_threads()
        rows = sum(layer.out_features for layer in layers)
        spare = A.new_zeros(-(rows + len(A)) % self._chunks, A.shape[1])
        self._weight = _stacked(layers, [A, spare] if len(A) + len(spare) else [])  # [O + R, K]
        self._bias, self._rows, self._rank = _bias(layers), rows, len(A)
        self._packed = base.once(layers, lambda: pack(self._weight[:rows]))
        self._packed_A = pack(A) if len(A) and self._packed is not None else None

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # For one row the compiler turns the blocks into loops of its own, which are fastest.
        loops = len(x) == 1 and torch.compiler.is_compiling()
        if self._packed is not None and not loops:
            if self._packed_A is None:
                return _biased(packed_linear(x, self._packed), self._bias), x[:, :0]
            out, z = packed_pair(x, self._packed, self._packed_A)  # [B, O], [B, R]
            return _biased(out, self._bias), z
        both = in_blocks(x, self._weight, self._chunks)  # [B, O + R]
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
    """On a GPU: the layers' weights as one matrix, made once, and A as another. The layers become views."""

    def __init__(self, layers: Sequence[nn.Linear], A: torch.Tensor, base: BaseWeights):
        self._weight = base.once(layers, lambda: _stacked(layers, []))  # [O, K]
        self._bias, self._A = _bias(layers), A

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.linear(x, self._weight, self._bias), F.linear(x, self._A)


class Int8Linear:
    """Weight-only int8: symmetric, a scale per output row, activations rounded to bfloat16.

    A quarter of float32's bytes, which bound the speed of one row. A is rounded like the rest. The base's
    rows are rounded once.
    """

    def __init__(self, layers: Sequence[nn.Linear], A: torch.Tensor, base: BaseWeights):
        own, scale = base.once(layers, lambda: _int8(torch.cat([layer.weight.data for layer in layers])))
        self._bias, self._rows, self._weight, self._scale = _bias(layers), len(own), own, scale
        if len(A):
            own_A, scale_A = _int8(A)
            self._weight = torch.cat([own, own_A])  # [O + R, K]
            self._scale = torch.cat([scale, scale_A])  # [O + R]

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch._weight_int8pack_mm(x.to(torch.bfloat16), self._weight, self._scale).to(x.dtype)
        return _biased(both[:, : self._rows], self._bias), both[:, self._rows :]


def _int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[O, K] -> int8 [O, K] and bfloat16 scales [O]."""
    weight = weight.float()
    # The scale is rounded before it is divided by, so that its rounding costs no accuracy.
    scale = (weight.abs().amax(dim=1).clamp_min(1e-20) / 127).to(torch.bfloat16)
    return (weight / scale[:, None].float()).round().clamp(-127, 127).to(torch.int8), scale


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

"""Products of one decoded token with the base's weights: layers that share their input become one matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock, RLock
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from composer.model.runtime.joining import joined_bias
from composer.model.runtime.llama.llm_int8 import LlmInt8Linear, stack_int8
from composer.model.runtime.llama.onednn_linear import dense_linear, pack, packed_linear
from composer.model.runtime.nf4.linear import Nf4Linear
from composer.model.runtime.nf4.stacking import Stacked, dequantised, exact_on_cpu, stack

T = TypeVar("T")


class LinearGroup(Protocol):
    # Whether it takes the scales of x A^T, [B, R], as a second argument.
    gates: bool

    def __call__(self, x: torch.Tensor, *scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, K] -> W x of all the layers side by side, [B, O], and x A^T times the scale, [B, R]."""
        ...


# By the embedding, which all copies of a base's modules share.
_of_bases = WeakTensorKeyDictionary()
_finding = Lock()


class BaseWeights:
    """What is made of a base's weights once in a process: one entry for each group of layers, whatever
    adapters come and go and however many engines there are."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Any] = {}
        self._making = RLock()

    @classmethod
    def of(cls, model: nn.Module) -> BaseWeights:
        """Those of a model, and of its copies that share its parameters. They go when the model does."""
        key = model.get_input_embeddings().weight
        with _finding:
            if key not in _of_bases:
                _of_bases[key] = cls()
            return _of_bases[key]

    def once(self, layers: Sequence[nn.Module], make: Callable[[], T], form: str = "stacked") -> T:
        """The result of `make` for these layers in this form, from the first time it was asked for."""
        # The base keeps its parameters alive, and this goes with the base.
        key = (form, *(id(layer.weight) for layer in layers))
        with self._making:
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

    A: [R, K] all adapters' A for these layers; None for none. weights: "same" as the layers', or "apart": the
    layers are called one by one, so nothing is copied. Layers that are neither plain dense ones nor
    bitsandbytes', on a GPU or in nf4 in float32 on a CPU, always are. base: what was made of these layers for
    another bank already.
    """
    first, base = layers[0], base or BaseWeights()
    if weights != "apart" and Nf4Linear.fits(layers):
        return Nf4Linear(layers, A, base.once(layers, lambda: stack(layers)))
    if weights != "apart" and LlmInt8Linear.fits(layers):
        return LlmInt8Linear(layers, A, base.once(layers, lambda: stack_int8(layers)))
    if weights != "apart" and exact_on_cpu(layers):
        return DequantisedLinear(A, base.once(layers, lambda: stack(layers)))
    if weights == "apart" or not all(type(layer) is nn.Linear for layer in layers):
        return UnfusedLinear(layers, A)
    if A is None:
        A = first.weight.new_empty(0, first.in_features)
    packed = base.once(layers, lambda: _packed(layers), "packed")
    return StackedLinear(layers, A, base) if packed is None else PackedLinear(layers, A, packed)


class PackedLinear:
    """On a CPU: a copy of the weights that oneDNN has laid out, made once.

    A stays as it is: packed, a product with a few adapters' A is no faster, and to pack the factors of each
    new set of adapters took 0.16 s, in which all texts wait.
    """

    gates = False

    def __init__(self, layers: Sequence[nn.Linear], A: torch.Tensor, packed: torch.Tensor):
        self._bias, self._packed, self._A = joined_bias(layers), packed, A

    def __call__(self, x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _biased(packed_linear(x, self._packed), self._bias), F.linear(x, self._A)


class DequantisedLinear:
    """nf4 layers of bitsandbytes on a CPU. Every product dequantises their weights, which stay in 4 bits.

    A packed copy in float32 is eight times as large. SmolLM2-135M reads 768 tokens without it as fast to a
    twentieth, 200 to an eighth; 12 tokens take 73 ms instead of 41 on one core.
    """

    gates = False

    def __init__(self, A: torch.Tensor | None, joint: Stacked):
        self._joint, self._A = joint, A

    def __call__(self, x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = _biased(dense_linear(x, dequantised(self._joint)), self._joint.bias)  # [B, O]
        if self._A is None:
            return out, x[:, :0]
        return out, F.linear(x, self._A)


class StackedLinear:
    """The layers' weights as one matrix, made once, and A as another. The layers become views."""

    gates = False

    def __init__(self, layers: Sequence[nn.Linear], A: torch.Tensor, base: BaseWeights):
        self._weight = base.once(layers, lambda: _stacked(layers))  # [O, K]
        self._bias, self._A = joined_bias(layers), A

    def __call__(self, x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.linear(x, self._weight, self._bias), F.linear(x, self._A)


class UnfusedLinear:
    """Layers of any kind, one after another."""

    gates = False

    def __init__(self, layers: Sequence[nn.Module], A: torch.Tensor | None):
        self._layers, self._A = list(layers), A

    def __call__(self, x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = torch.cat([layer(x) for layer in self._layers], dim=-1)  # [B, O]
        return out, x[:, :0] if self._A is None else F.linear(x.to(self._A.dtype), self._A)


def _packed(layers: Sequence[nn.Linear]) -> torch.Tensor | None:
    """A packed copy of the layers' weights below each other; None where oneDNN does not pack."""
    first = layers[0].weight.data
    return pack(first if len(layers) == 1 else torch.cat([layer.weight.data for layer in layers]))


def _stacked(layers: Sequence[nn.Linear]) -> torch.Tensor:
    """The weights as one matrix, [rows, K], of which the layers become views."""
    if len(layers) == 1:
        return layers[0].weight.data
    whole = torch.cat([layer.weight.data for layer in layers])
    start = 0
    for layer in layers:
        layer.weight.data = whole[start : start + layer.out_features]
        start += layer.out_features
    return whole


def _biased(out: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return out if bias is None else out + bias

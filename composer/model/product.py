"""Products of one decoded token with the base's weights: layers that share their input become one matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

Product = Callable[[torch.Tensor], torch.Tensor]  # [B, d_in] -> [B, d_out of all the layers]


def product(layers: Sequence[nn.Module], weights: str = "same") -> Product:
    """One product for Linear layers that read the same input; their outputs stand side by side.

    weights: "same" as the layers', or "int8": weight-only, a scale per output row. Layers that are not
    plain dense ones (bitsandbytes) are called one by one.
    """
    if not all(type(layer) is nn.Linear for layer in layers):
        return Apart(layers)
    return Int8(layers) if weights == "int8" else Dense(layers)


class Dense:
    """The layers' weights as one matrix. The layers go on as views of it, so memory stays the same."""

    def __init__(self, layers: Sequence[nn.Linear]):
        self.weight = layers[0].weight.data
        if len(layers) > 1:
            self.weight = torch.cat([layer.weight.data for layer in layers])  # [O, K]
            parts = self.weight.split([layer.out_features for layer in layers])
            for layer, part in zip(layers, parts, strict=True):
                layer.weight.data = part
        self.bias = _bias(layers)
        self._chunks = _chunks(self.weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1 or self._chunks == 1:
            return F.linear(x, self.weight, self.bias)  # [B, O]
        # MKL runs a one-row product on one thread of some CPUs; a batch of row blocks runs on all.
        blocks = self.weight.view(self._chunks, -1, self.weight.shape[1]).transpose(1, 2)  # [c, K, O/c]
        out = torch.bmm(x.expand(self._chunks, 1, -1), blocks).view(1, -1)
        return out if self.bias is None else out + self.bias


class Int8:
    """Weight-only int8: symmetric, a scale per output row, activations rounded to bfloat16.

    A quarter of float32's bytes, which is what decoding one token waits for.
    """

    def __init__(self, layers: Sequence[nn.Linear]):
        weight = torch.cat([layer.weight.data.float() for layer in layers])  # [O, K]
        # Rounded to what the product takes before it is divided by, so that its rounding does no harm.
        self.scale = (weight.abs().amax(dim=1).clamp_min(1e-20) / 127).to(torch.bfloat16)  # [O]
        self.weight = (weight / self.scale[:, None].float()).round().clamp(-127, 127).to(torch.int8)
        self.bias = _bias(layers)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out = torch._weight_int8pack_mm(x.to(torch.bfloat16), self.weight, self.scale).to(x.dtype)
        return out if self.bias is None else out + self.bias


class Apart:
    """Layers of any kind, one after another."""

    def __init__(self, layers: Sequence[nn.Module]):
        self._layers = list(layers)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([layer(x) for layer in self._layers], dim=-1)


def _bias(layers: Sequence[nn.Linear]) -> torch.Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat(
        [
            layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.data
            for layer in layers
        ]
    )


def _chunks(weight: torch.Tensor) -> int:
    """Into how many equal row blocks a one-row product is cut: as many as there are threads, on a CPU."""
    if weight.device.type != "cpu":
        return 1
    return max(count for count in range(1, torch.get_num_threads() + 1) if len(weight) % count == 0)

"""nf4 layers of bitsandbytes as a LinearGroup: see composer.model.runtime.llama.fused_linear."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from composer.model.runtime.nf4.choice import Clock, Pair
from composer.model.runtime.nf4.product import available, nf4_product, settle
from composer.model.runtime.nf4.stacking import Stacked, stackable
from composer.model.runtime.nf4.timing import graph_seconds


class Nf4Linear:
    """Layers that read the same input as one product, with the adapters' x A^T in the same launch.

    Up to 32 rows take the way that was the fastest when it was timed, which happens once for each shape, when
    the first group of that shape is made. For more rows bitsandbytes dequantises and multiplies.
    """

    # The compiler may follow it: what it calls is one operator.
    traceable = True
    gates = True

    def __init__(
        self,
        layers: Sequence[nn.Module],
        A: torch.Tensor | None,  # [R, K]
        joint: Stacked,
        clock: Clock = graph_seconds,
    ):
        """joint: these layers' weights, of composer.model.runtime.nf4.stacking."""
        self._layers, self._clock = layers, clock
        self._dtype = dtype = layers[0].compute_dtype
        self._joint = joint if joint.bias is None else joint._replace(bias=joint.bias.to(dtype))
        empty = joint.absmax.new_empty(0, 2 * joint.packed.shape[1])
        self._A = (empty if A is None else A).to(dtype)
        settle(self._joint, dtype, self._A, clock)

    def with_adapters(self, A: torch.Tensor) -> Nf4Linear:
        """The same product with another A, [R, K], which is read where it lies."""
        return Nf4Linear(self._layers, A, self._joint, self._clock)

    @staticmethod
    def fits(layers: Sequence[nn.Module]) -> bool:
        """Whether all are nf4 layers of bitsandbytes, on a GPU, and Triton is there."""
        return stackable(layers) and available(layers[0].weight.device)

    def __call__(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> Pair:
        """[M, K] -> all the layers side by side, [M, N], and x A^T times `scale`, if given, [M, R]."""
        out, z = nf4_product(x.to(self._dtype), self._joint, self._A, scale)
        return out.to(x.dtype), z

"""nf4 layers of bitsandbytes as a LinearGroup: see composer.model.runtime.llama.fused_linear."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import nn

from composer.model.runtime.nf4.choice import Clock, Outputs
from composer.model.runtime.nf4.product import available, nf4_product, settle
from composer.model.runtime.nf4.stacking import Joint, stack, stackable
from composer.model.runtime.nf4.timing import GraphClock


class Nf4Linear:
    """Layers that read the same input as one product, with the adapters' x A^T in the same launch.

    Up to 32 rows take the way that was the fastest when it was timed, which happens once for each shape, when
    the group is made. More rows are dequantised for.
    """

    def __init__(self, layers: Sequence[nn.Module], joint: Joint, A: torch.Tensor | None, clock: Clock):
        dtype = layers[0].compute_dtype or (torch.get_default_dtype() if A is None else A.dtype)
        self._dtype = dtype
        self._joint = joint if joint.bias is None else joint._replace(bias=joint.bias.to(dtype))
        self._A = _nothing(joint, dtype) if A is None else A.to(dtype)
        settle(self._joint, dtype, self._A, clock)

    @staticmethod
    def fits(layers: Sequence[nn.Module]) -> bool:
        """Whether all are nf4 layers of bitsandbytes on a GPU where Triton is."""
        return stackable(layers) and available(layers[0].weight.device)

    def __call__(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> Outputs:
        """[M, K] -> all the layers side by side, [M, N], and x A^T, [M, R], times `scale`, [M, R], if given."""
        if x.dtype == self._dtype:
            return nf4_product(x, self._joint, self._A, scale)
        out, z = nf4_product(x.to(self._dtype), self._joint, self._A, scale)
        return out.to(x.dtype), z


def make(layers: Sequence[nn.Module], A: torch.Tensor | None, joint: Joint) -> Nf4Linear:
    return Nf4Linear(layers, joint, A, clock_of(layers[0].weight.device))


@functools.cache
def clock_of(device: torch.device) -> Clock:
    return GraphClock(device)


def _nothing(joint: Joint, dtype: torch.dtype) -> torch.Tensor:
    return joint.packed.new_empty(0, 2 * joint.packed.shape[1], dtype=dtype)


__all__ = ["Nf4Linear", "clock_of", "make", "stack"]

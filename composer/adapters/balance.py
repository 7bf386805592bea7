"""Bounds the factors of an adapter whose numbers are very large.

Every row of a batch is multiplied by every adapter's A, and by a gate of 0 for the adapters that it does not
use. Where A or B^T B is so large that the product overflows, 0 times infinity is NaN in every row. The size
of such factors is therefore moved into the scaling, and a gate of 0 is applied before the product.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

# Longest row of A and column of B that stays as it is, by dtype. With longer ones x A^T may overflow for
# inputs as they occur in decoder layers; those of trained adapters are between 0.1 and 10.
LONGEST = {torch.float32: 2.0**20, torch.bfloat16: 2.0**20, torch.float16: 2.0**5}


class Balanced(NamedTuple):
    """Factors [r, d_in], [d_out, r] and scaling with the same scaling * B A."""

    A: torch.Tensor
    B: torch.Tensor
    scaling: float


def balanced(A: torch.Tensor, B: torch.Tensor, scaling: float) -> Balanced:
    """Factors with no row of A and no column of B longer than LONGEST; the scaling grows instead.

    Divides by powers of two, which changes no digit. A scaling beyond float32 becomes float32's largest
    number: the rows that use such an adapter overflow either way.
    """
    A, left = _shortened(A, dim=1)
    B, right = _shortened(B, dim=0)
    return Balanced(A, B, min(scaling * left * right, torch.finfo(torch.float32).max))


def _shortened(factor: torch.Tensor, dim: int) -> tuple[torch.Tensor, float]:
    """The factor over a power of two, and that power; the very same tensor and 1 where it is short enough."""
    limit = LONGEST.get(factor.dtype, math.inf)
    longest = float(torch.linalg.vector_norm(factor.double(), dim=dim).amax()) if factor.numel() else 0.0
    if longest <= limit:
        return factor, 1.0
    power = 2.0 ** math.ceil(math.log2(longest))
    return (factor.double() / power).to(factor.dtype), power

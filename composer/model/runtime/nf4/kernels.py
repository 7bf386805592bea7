"""The Triton kernels as one function of tensors.

This module imports triton, so it is imported only where that is known to be there.
"""

from __future__ import annotations

import torch

from composer.model.runtime.nf4.decode import SHUFFLE
from composer.model.runtime.nf4.few_rows import launch_few_rows
from composer.model.runtime.nf4.one_row import launch_one_row
from composer.model.runtime.nf4.plan import OneRow, Plan

# The type of x. The kernel for one row reads halves in fours, as integers.
KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def product(
    x: torch.Tensor,  # [M, K], float32, float16 or bfloat16
    packed: torch.Tensor,  # [N, K / 2] uint8
    absmax: torch.Tensor,  # [N, K / 64] float32
    A: torch.Tensor,  # [R, K], as x
    bias: torch.Tensor | None,  # [N]
    scale: torch.Tensor | None,  # [M, R]
    plan: Plan,
    decode: int = SHUFFLE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x W^T + bias, [M, N], and (x A^T) * scale, [M, R]. plan: one of plan.plans for these sizes."""
    x, A = _aligned(x), A.contiguous()
    out, z = x.new_empty(len(x), len(packed)), x.new_empty(len(x), len(A))
    # A pointer is needed where there is nothing to point to; the kernels do not follow it.
    tensors = (
        x,
        packed.view(torch.int32),
        absmax,
        A,
        out if bias is None else bias,
        z if scale is None else scale.contiguous(),
        out,
        z,
    )
    extras = {"BIAS": bias is not None, "SCALE": scale is not None}
    if isinstance(plan, OneRow):
        launch_one_row(tensors, plan, DECODE=decode, KIND=KINDS[x.dtype], **extras)
    else:
        launch_few_rows(tensors, plan, {"DECODE": decode, "KIND": KINDS[x.dtype]}, extras)
    return out, z


def _aligned(x: torch.Tensor) -> torch.Tensor:
    """Contiguous, and at an address of 16 bytes: it is read in words of 8."""
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()

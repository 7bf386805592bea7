"""The 4-bit kernels under Triton's interpreter, which has to be chosen before triton is imported.

A script: reads cases and prints {case: [error of the product, error of z]}, beside plain torch on dequantised
weights.
"""

from __future__ import annotations

import json
import sys

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from composer.model.runtime.nf4.decode import SELECT
from composer.model.runtime.nf4.kernels import product
from composer.model.runtime.nf4.plan import plans

Case = tuple[int, int, int, int, str, str, int]


def errors(case: Case) -> list[float]:
    rows, outputs, features, rank, kind, extras, plan = case
    dtype, generator = getattr(torch, kind), torch.Generator().manual_seed(rows * outputs + features)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    packed, state = quantize_4bit(random(outputs, features), blocksize=64, quant_type="nf4")
    x, A = random(rows, features).to(dtype), random(rank, features).to(dtype)
    bias = random(outputs).to(dtype) if "bias" in extras else None
    scale = random(rows, rank).to(dtype) if "gates" in extras else None
    if "view" in extras:  # rows of a wider matrix, at an address that is no multiple of 16
        x = random(rows, features + 3).to(dtype)[:, 3:]
    out, z = product(
        x,
        packed.view(outputs, features // 2),
        state.absmax.view(outputs, features // 64),
        A,
        bias,
        scale,
        plans(rows, outputs + rank, features, dtype.itemsize)[plan],
        SELECT,
    )
    if out.dtype != dtype or z.dtype != dtype:
        return [float("inf")] * 2
    expected = x.double() @ dequantize_4bit(packed, state).double().T
    expected = expected if bias is None else expected + bias.double()
    expected_z = x.double() @ A.double().T
    expected_z = expected_z if scale is None else expected_z * scale.double()
    return [_off(out, expected), _off(z, expected_z) if rank else 0.0]


def _off(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error of a row, relative to the row."""
    return ((got.double() - expected).norm(dim=1) / expected.norm(dim=1)).max().item()


if __name__ == "__main__":
    print(json.dumps({case: errors(json.loads(case)) for case in json.load(sys.stdin)}))

"""What a training run computes in. Apart, so that the shell can ask without importing the Trainer."""

from __future__ import annotations

import time
from functools import cache

import torch

# A product like those of a small base's training: tokens of a step, by an MLP's layer.
SHAPE = 256, 640, 2048
ROUNDS = 5
# bfloat16 rounds, so it has to be quicker by more than a timing's noise.
GAIN = 1.2
# The names are torch's own secret: one that is gone means float32, which is always right.
FEATURES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def faster_in_bfloat16(device: torch.device) -> bool:
    """Whether products are clearly faster in bfloat16 than in float32 there; on a CPU, by timing some once.

    Having the instructions does not tell: with AMX a core multiplies several times as much, but with only
    AVX512-BF16 an Intel core has one unit for bfloat16 and two for float32, and took 1.7 times as long.

    The base is then written and trained with in bfloat16, and multiplied by autocast; the adapter's factors
    and their optimiser stay in float32.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    # Emulated products can take a hundred times as long, so they are not timed.
    supported = any(getattr(torch.cpu, name, lambda: False)() for name in FEATURES)
    return supported and bfloat16_speed() > GAIN


@cache
def bfloat16_speed() -> float:
    """How many times as fast products are on the CPU as in float32: of each the least time, interleaved."""
    rows, inner, outer = SHAPE
    pairs = [
        (torch.ones(rows, inner, dtype=dtype), torch.ones(inner, outer, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    took = [[_seconds(*pair) for pair in pairs] for _ in range(ROUNDS + 1)][1:]  # the first is a warm-up
    single, half = (min(column) for column in zip(*took, strict=True))
    return single / half


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(left, right)
    return time.perf_counter() - start

"""What a training run computes in. Apart, so that the shell can ask without importing the Trainer."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 products in hardware; emulated ones are slower than float32's.

    The base is then written and trained with in bfloat16, and multiplied by autocast; the adapter's factors
    and their optimiser stay in float32.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    # The names are torch's own secret: one that is gone means float32, which is always right.
    features = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in features)

"""x W^T on a CPU, with weights that oneDNN has laid out for its own kernels.

BLAS turns a product of few rows into little more than as many products of one: 32 rows of SmolLM2-135M took
75 ms in its best form, 52 ms here, and whole prompts gain too. The price is a second copy of the weights.
"""

from __future__ import annotations

import platform

import torch
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

# With fewer rows oneDNN takes a kernel that reads the weights more slowly than the one for these.
FEWEST = 4
# The number of rows that the layout is made for; other numbers read it as it is.
TYPICAL = 32
# oneDNN makes and keeps code for every number of rows it meets: above the first, multiples of the second.
EXACT, STEP = 64, 16

# The packed copy of each weight, for as long as the weight itself is there. Compiled code asks for it by the
# weight: the compiler has no notion of a tensor whose layout is oneDNN's secret.
_copies = WeakTensorKeyDictionary()


def pack(weight: torch.Tensor) -> bool:
    """Make the packed copy of a [O, K] weight, unless it is there. Whether `packed_linear` may be called."""
    if not _can(weight):
        return False
    if weight not in _copies:
        _copies[weight] = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL)
    return True


def _can(weight: torch.Tensor) -> bool:
    """On the processors oneDNN is made for; its other ports are slower than those processors' own BLAS."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and platform.machine().lower() in ("x86_64", "amd64")
    )


def _linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    rows = len(x)
    spare = -rows % STEP if rows > EXACT else max(FEWEST - rows, 0)
    if spare:
        x = F.pad(x, (0, 0, 0, spare))
    return torch.ops.mkldnn._linear_pointwise.default(x, _copies[weight], None, "none", [], "")[:rows]


# An operator of its own, which the compiler calls and does not look into. Not torch.library.custom_op: its
# wrapper takes as long as a small product.
_library = torch.library.Library("composer", "DEF")
_library.define("packed_linear(Tensor x, Tensor weight) -> Tensor")
_library.impl("packed_linear", _linear, "CPU")
torch.library.register_fake(
    "composer::packed_linear", lambda x, weight: x.new_empty(x.shape[0], weight.shape[0]), lib=_library
)


def packed_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W^T, [B, K] by [O, K]; `pack` has been told of this very weight tensor before."""
    return torch.ops.composer.packed_linear.default(x, weight)

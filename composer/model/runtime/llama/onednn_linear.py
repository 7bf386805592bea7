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
EXACT, ROW_MULTIPLE = 64, 16

# The packed copy of each weight, by its handle, and for as long as the handle is there. Compiled code passes
# the handle: the compiler cannot represent a tensor in oneDNN's own layout.
_copies = WeakTensorKeyDictionary()


def pack(weight: torch.Tensor) -> torch.Tensor | None:
    """A handle of a packed copy of the [O, K] weight, which `packed_linear` takes; None where oneDNN does not
    pack.

    The handle is an empty tensor, [O, 0]. The copy does not depend on the weight afterwards.
    """
    if not _can(weight):
        return None
    handle = weight.new_empty(len(weight), 0)
    _copies[handle] = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL)
    return handle


def packed_bytes(tensor: torch.Tensor) -> int:
    """Bytes of the packed copy that the tensor is the handle of; 0 for any other tensor."""
    copy = _copies.get(tensor)
    return 0 if copy is None else copy.numel() * copy.element_size()


def dense_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W^T, [B, K] by [O, K], with a weight that is used once: oneDNN, where it packs, multiplies it as it
    lies."""
    if not _can(weight):
        return F.linear(x, weight)
    return torch.ops.mkldnn._linear_pointwise.default(_padded(x), weight, None, "none", [], "")[: len(x)]


def _can(weight: torch.Tensor) -> bool:
    """On the processors oneDNN is made for; its other ports are slower than those processors' own BLAS."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and platform.machine().lower() in ("x86_64", "amd64")
    )


def _padded(x: torch.Tensor) -> torch.Tensor:
    rows = len(x)
    spare = -rows % ROW_MULTIPLE if rows > EXACT else max(FEWEST - rows, 0)
    return F.pad(x, (0, 0, 0, spare)) if spare else x


def _linear(x: torch.Tensor, handle: torch.Tensor) -> torch.Tensor:
    weight = _copies[handle]
    return torch.ops.mkldnn._linear_pointwise.default(_padded(x), weight, None, "none", [], "")[: len(x)]


# Operators of their own, which the compiler calls and does not look into. Not torch.library.custom_op: its
# wrapper takes as long as a small product.
_library = torch.library.Library("composer", "DEF")
_library.define("packed_linear(Tensor x, Tensor handle) -> Tensor")
_library.impl("packed_linear", _linear, "CPU")
torch.library.register_fake(
    "composer::packed_linear", lambda x, handle: x.new_empty(x.shape[0], handle.shape[0]), lib=_library
)


def packed_linear(x: torch.Tensor, handle: torch.Tensor) -> torch.Tensor:
    """x W^T, [B, K] by [O, K], with the packed copy of W that `pack` returned the handle of."""
    return torch.ops.composer.packed_linear.default(x, handle)

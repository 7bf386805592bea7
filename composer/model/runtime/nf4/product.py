"""x W^T with W in nf4, beside x A^T: one operator, which the compiler calls and does not look into.

Inside it the way that was chosen for the shape and the number of rows is called. A graph that captures the
operator captures that way, so choices are made before: see composer.model.runtime.nf4.linear.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from composer.model.runtime.nf4.choice import BUCKETS, Candidate, Clock, Pair, bucket, choose
from composer.model.runtime.nf4.plan import BLOCK, MOST_ROWS, plans
from composer.model.runtime.nf4.stacking import Stacked

log = logging.getLogger(__name__)


class Shape(NamedTuple):
    """What choices are kept by. R is not in it: adapters come and go, and add little to the time."""

    device: torch.device
    dtype: torch.dtype
    outputs: int
    features: int
    bias: bool


Way = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    Pair,
]

BITSANDBYTES = "bitsandbytes"
# The way of each shape and bucket of rows; bitsandbytes' where there is none. Entries are never changed.
_ways: dict[tuple[Shape, int], Way] = {}


def available(device: torch.device) -> bool:
    """Whether the product can be computed there: on a CUDA device, by Triton or by bitsandbytes >= 0.50."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and importlib.util.find_spec("triton") is not None
        and has_bitsandbytes()
    )


def has_bitsandbytes() -> bool:
    """Whether bitsandbytes is there, with the product that takes packed weights (since 0.50)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return False
    import bitsandbytes  # noqa: F401 -- registers its operators

    return hasattr(torch.ops.bitsandbytes, "gemm_4bit")


def by_bitsandbytes(
    x: torch.Tensor,  # [M, K]
    packed: torch.Tensor,  # [N, K / 2]
    absmax: torch.Tensor,  # [N, K / 64]
    A: torch.Tensor,  # [R, K]
    bias: torch.Tensor | None,  # [N]
    scale: torch.Tensor | None,  # [M, R]
) -> Pair:
    """bitsandbytes' own product, which for many rows dequantises and multiplies."""
    shape = [len(packed), x.shape[1]]
    out = torch.ops.bitsandbytes.gemm_4bit.default(
        x, packed.view(-1, 1), shape, absmax.view(-1), BLOCK, "nf4", bias=bias
    )
    z = F.linear(x, A)
    return out, z if scale is None else z * scale


def by_triton(index: int, decode: str) -> Way:
    """The kernels, with the plan at `index` of composer.model.runtime.nf4.plan.plans."""
    from composer.model.runtime.nf4 import kernels
    from composer.model.runtime.nf4.decode import DECODES

    how = DECODES[decode]

    def way(
        x: torch.Tensor,
        packed: torch.Tensor,
        absmax: torch.Tensor,
        A: torch.Tensor,
        bias: torch.Tensor | None,
        scale: torch.Tensor | None,
    ) -> Pair:
        plan = plans(x.shape[0], len(packed) + len(A), x.shape[1], x.element_size())[index]
        with torch.cuda.device_of(x):  # Triton launches on the current device
            return kernels.product(x, packed, absmax, A, bias, scale, plan, how)

    return way


def settle(joint: Stacked, dtype: torch.dtype, A: torch.Tensor, clock: Clock) -> None:
    """Choose the way for each number of rows, for a shape that has none yet."""
    shape = _shape(joint.packed, joint.bias, dtype)
    for rows in BUCKETS:
        if (shape, rows) not in _ways:
            with torch.cuda.device_of(joint.packed):
                _ways[shape, rows] = _fastest(joint, shape, rows, A, clock)


def _fastest(joint: Stacked, shape: Shape, rows: int, A: torch.Tensor, clock: Clock) -> Way:
    generator = torch.Generator(shape.device).manual_seed(rows)
    x = torch.randn(rows, shape.features, device=shape.device, generator=generator).to(shape.dtype)

    def run(way: Way) -> Candidate:
        return lambda: way(x, joint.packed, joint.absmax, A, joint.bias, None)

    # Selections are slower than shuffles on every card that has both: only for one where shuffles fail.
    for decode in ("shuffle", "select"):
        ways = _ours(decode, len(plans(rows, shape.outputs, shape.features)))
        name = choose(
            f"{rows} x {shape.features} x {shape.outputs}",
            (BITSANDBYTES, run(by_bitsandbytes)),
            {name: run(way) for name, way in ways.items()},
            clock,
        )
        if name in ways:
            return ways[name]
    return by_bitsandbytes


def _ours(decode: str, count: int) -> dict[str, Way]:
    """The kernels with each of `count` plans; none where Triton cannot be imported."""
    try:
        return {f"{decode} {index}": by_triton(index, decode) for index in range(count)}
    except Exception as fault:  # a triton that is broken raises anything
        log.warning("4-bit products without Triton: %r", fault)
        return {}


def _shape(packed: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> Shape:
    return Shape(packed.device, dtype, len(packed), 2 * packed.shape[1], bias is not None)


def _product(
    x: torch.Tensor,
    packed: torch.Tensor,
    absmax: torch.Tensor,
    A: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
) -> Pair:
    way: Way = by_bitsandbytes
    if 0 < len(x) <= MOST_ROWS:
        way = _ways.get((_shape(packed, bias, x.dtype), bucket(len(x))), way)
    return way(x, packed, absmax, A, bias, scale)


_library = torch.library.Library("composer", "FRAGMENT")
_library.define(
    "nf4_product(Tensor x, Tensor packed, Tensor absmax, Tensor A, Tensor? bias, Tensor? scale)"
    " -> (Tensor, Tensor)"
)
for _device in ("CPU", "CUDA"):
    _library.impl("nf4_product", _product, _device)
torch.library.register_fake(
    "composer::nf4_product",
    lambda x, packed, absmax, A, bias, scale: (
        x.new_empty(x.shape[0], packed.shape[0]),
        x.new_empty(x.shape[0], A.shape[0]),
    ),
    lib=_library,
)


def nf4_product(
    x: torch.Tensor,  # [M, K]
    joint: Stacked,
    A: torch.Tensor,  # [R, K], as x
    scale: torch.Tensor | None = None,  # [M, R]
) -> Pair:
    """x W^T + bias, [M, N], and (x A^T) * scale, [M, R]."""
    return torch.ops.composer.nf4_product.default(x, joint.packed, joint.absmax, A, joint.bias, scale)

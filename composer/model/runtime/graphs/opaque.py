"""Products that the compiler calls and does not look into: bitsandbytes' layers, and kernels of our own."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from composer.model.runtime.llama.fused_linear import LinearGroup, PackedLinear, StackedLinear

# The product behind each handle, for as long as the handle is there. Compiled code passes the handle: which
# product it is stays an input, so that layers of one kind share their code.
_products: MutableMapping[torch.Tensor, LinearGroup] = WeakTensorKeyDictionary()

TRACEABLE = (PackedLinear, StackedLinear)


def _call(x: torch.Tensor, handle: torch.Tensor) -> torch.Tensor:
    return _products[handle](x)[0]


_library = torch.library.Library("composer_graphs", "DEF")
_library.define("opaque_linear(Tensor x, Tensor handle) -> Tensor")
_library.impl("opaque_linear", _call, "CompositeExplicitAutograd")
torch.library.register_fake(
    "composer_graphs::opaque_linear",
    lambda x, handle: x.new_empty(x.shape[0], handle.shape[0]),
    lib=_library,
)


class OpaqueLinear:
    """A product as one operator of its own. Its adapters' part is not called."""

    gates = False

    def __init__(self, product: LinearGroup, features: int, like: torch.Tensor):
        """features: the output's. like: a tensor on the product's device."""
        # Empty, so that it takes no memory: [O, 0].
        self._handle = torch.empty(features, 0, device=like.device)
        _products[self._handle] = product

    def __call__(self, x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ops.composer_graphs.opaque_linear.default(x, self._handle), x[:, :0]


def compilable(product: LinearGroup, features: int, like: torch.Tensor) -> LinearGroup:
    """The same product as something that compiled code may contain.

    Products of dense layers are plain torch. Another one may say of itself, by an attribute `traceable`, that
    the compiler can follow it.
    """
    if isinstance(product, TRACEABLE) or getattr(product, "traceable", False):
        return product
    return OpaqueLinear(product, features, like)

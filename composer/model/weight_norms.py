"""How large the base's own weights are, which is what an adapter's change is measured against."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from composer.model.gated_model import GatedModel
from composer.model.placement import brought


@torch.no_grad()
def weight_norms(model: GatedModel, paths: Iterable[str]) -> dict[str, float]:
    """Frobenius norm of W0 at each site; a quantised layer is dequantised for it, one at a time."""
    return {path: _norm(model.model.get_submodule(path).base) for path in paths}


def _norm(layer: torch.nn.Module) -> float:
    with brought(layer):
        return _norm_here(layer)


def _norm_here(layer: torch.nn.Module) -> float:
    weight = layer.weight
    if type(weight) is not torch.nn.Parameter:
        # PEFT, and bitsandbytes with it, takes seconds to import, which a base that is not quantised spares.
        from peft.utils.integrations import dequantize_module_weight

        weight = dequantize_module_weight(layer)
    return float(torch.linalg.vector_norm(weight, dtype=torch.float32))

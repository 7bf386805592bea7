"""NP-LoRA, a calibration before the sum: the other adapters leave the directions that the strongest reads.

    D_c <- D_c (I - u / (1 + u) V V^T),  V the right singular vectors of the kept adapter's B A

In factors it changes A_c alone, so that each adapter stays one of its own. u = 0 is the sum; as u grows the
others no longer respond to what the kept one responds to. It is not symmetric: the adapter with the greatest
weight is kept, of equal ones the first in the catalog's order. The source has two, a style that is kept and a
subject; of more the others are all projected, and not against each other.

Source: NP-LoRA, 2025, arXiv 2511.11051 (soft projection, formula known second-hand; how many directions it
takes is not known to us: here all with a singular value above 0). Its models are of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from composer.adapters.bank import Adapter, LoraFactors
from composer.methods.merging.base import Calibration, Options
from composer.methods.merging.factor_ops import WeightedDelta, decomposed, stored

# Singular values below this share of the largest are rounding.
ROUNDING = 1e-5


def directions(own: LoraFactors) -> torch.Tensor:
    """The right singular vectors of B A, [d_in, K], K its rank. Raises ComposerError for an overflow."""
    _, sigma, vh = decomposed([WeightedDelta(own.A.float(), own.B.float(), 1.0)])
    return vh[sigma > ROUNDING * sigma[:1]].T


def project(adapters: Sequence[Adapter], kept: int, options: Options) -> list[Adapter]:
    """The adapters, each but number `kept` with A <- A (I - u / (1 + u) V V^T) at the sites of that one."""
    share = options.projection / (1 + options.projection)
    projected: list[dict[str, LoraFactors]] = [dict(adapter) for adapter in adapters]
    for path, strongest in adapters[kept].items():
        others = [own for place, own in enumerate(projected) if place != kept and path in own]
        if not share or not others:
            continue
        v = directions(strongest)  # [d_in, K]
        for own in others:
            a = own[path].A.float()
            own[path] = replace(own[path], A=stored(a - share * (a @ v) @ v.T, own[path].A))
    return list(projected)


NP_LORA = Calibration("np-lora", project, ("projection",), ranked=True)

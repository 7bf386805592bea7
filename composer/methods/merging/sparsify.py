"""Merges that first thin the deltas out: magnitude prune, TIES, DARE; on the delta, never on A and B."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from composer.adapters.bank import Adapter
from composer.methods.merging.base import Merge, Merged, Options
from composer.methods.merging.dense import largest, through_deltas


def pruned(deltas: list[torch.Tensor], density: float) -> list[torch.Tensor]:
    """Each delta with all but its largest entries at 0."""
    return [delta * largest(delta, density) for delta in deltas]


def dropped(deltas: list[torch.Tensor], density: float, draws: np.random.Generator) -> list[torch.Tensor]:
    """Each delta with entries at 0 by chance and the rest divided by density, so that the mean is the delta.

    PEFT's random_pruning draws from torch's global generator; numpy's own is also three times as fast.
    """
    return [delta * (_kept(delta, density, draws) / density) for delta in deltas]


def ties_consensus(deltas: list[torch.Tensor]) -> torch.Tensor:
    """Per entry the mean of the deltas on the side, plus or minus, whose sum weighs more.

    The deltas come with their weights, so that a negative weight votes for the opposite side (PEFT lets
    the unweighted ones vote). It is a mean over those that agree, not a sum.
    """
    # PEFT takes seconds to import, which a start without TIES should not pay.
    from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge

    stack = torch.stack(deltas)  # [N, d_out, d_in]
    return disjoint_merge(stack, calculate_majority_sign_mask(stack))


def _kept(delta: torch.Tensor, density: float, draws: np.random.Generator) -> torch.Tensor:
    chance = draws.random(tuple(delta.shape), np.float32)  # [d_out, d_in] in [0, 1)
    return torch.from_numpy(chance < density).to(delta.device)


def _magnitude(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    return through_deltas(adapters, weights, options, lambda deltas: sum(pruned(deltas, options.density)))


def _ties(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    return through_deltas(
        adapters, weights, options, lambda deltas: ties_consensus(pruned(deltas, options.density))
    )


def _dare_linear(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    draws = np.random.default_rng(options.seed)
    return through_deltas(
        adapters, weights, options, lambda deltas: sum(dropped(deltas, options.density, draws))
    )


def _dare_ties(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    draws = np.random.default_rng(options.seed)
    return through_deltas(
        adapters, weights, options, lambda deltas: ties_consensus(dropped(deltas, options.density, draws))
    )


MAGNITUDE = Merge("magnitude", _magnitude, {"density": 0.2})
TIES = Merge("ties", _ties, {"density": 0.2})
DARE_LINEAR = Merge("dare-linear", _dare_linear, {"density": 0.8})
DARE_TIES = Merge("dare-ties", _dare_ties, {"density": 0.8})

"""Merges that first make the deltas sparse, then combine them: magnitude prune, TIES, DARE.

Each is one way to sparsify and one to find a consensus. Both work on the delta, never on A and B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch

from composer.adapters.bank import Adapter
from composer.methods.merging.base import Merge, Merged, MergeRule, Options
from composer.methods.merging.dense import largest, through_deltas

# Deltas N of [d_out, d_in], density, random numbers -> deltas with entries at 0.
Sparsify = Callable[[list[torch.Tensor], float, np.random.Generator], list[torch.Tensor]]
# Deltas N of [d_out, d_in] -> one.
Consensus = Callable[[list[torch.Tensor]], torch.Tensor]


def pruned(
    deltas: list[torch.Tensor], density: float, draws: np.random.Generator | None = None
) -> list[torch.Tensor]:
    """Each delta with all but its largest entries at 0. Draws nothing."""
    return [delta * largest(delta, density) for delta in deltas]


def dropped(deltas: list[torch.Tensor], density: float, draws: np.random.Generator) -> list[torch.Tensor]:
    """Each delta with entries at 0 at random and the rest divided by the density: the mean is the delta.

    PEFT's random_pruning draws from torch's global generator; numpy's own is also three times as fast.
    """
    return [delta * (_kept(delta, density, draws) / density) for delta in deltas]


def added(deltas: list[torch.Tensor]) -> torch.Tensor:
    """The sum of the deltas."""
    return reduce(torch.add, deltas)


def ties_consensus(deltas: list[torch.Tensor]) -> torch.Tensor:
    """Per entry the mean of the deltas on the side, plus or minus, whose sum weighs more.

    The deltas come with their weights, so that a negative weight votes for the opposite side (PEFT lets
    the unweighted ones vote). It is a mean over those that agree, not a sum. PEFT's own functions for it take
    seconds to import, and twice as long.
    """
    side = torch.where(added(deltas) >= 0, 1.0, -1.0)  # [d_out, d_in]
    total, agreeing = torch.zeros_like(side), torch.zeros_like(side)
    for delta in deltas:
        on_side = (delta * side).clamp_min_(0)
        total += on_side
        agreeing += on_side.sign_()
    return total.mul_(side).div_(agreeing.clamp_min_(1))


def _kept(delta: torch.Tensor, density: float, draws: np.random.Generator) -> torch.Tensor:
    chance = draws.random(tuple(delta.shape), np.float32)  # [d_out, d_in] in [0, 1)
    return torch.from_numpy(chance < density).to(delta.device)


def _combined(sparsify: Sparsify, consensus: Consensus) -> MergeRule:
    def rule(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
        assert options.density is not None
        density, draws = options.density, np.random.default_rng(options.seed)
        return through_deltas(
            adapters, weights, options, lambda deltas: consensus(sparsify(deltas, density, draws))
        )

    return rule


MAGNITUDE = Merge("magnitude", _combined(pruned, added), {"density": 0.2})
TIES = Merge("ties", _combined(pruned, ties_consensus), {"density": 0.2})
DARE_LINEAR = Merge("dare-linear", _combined(dropped, added), {"density": 0.8})
DARE_TIES = Merge("dare-ties", _combined(dropped, ties_consensus), {"density": 0.8})

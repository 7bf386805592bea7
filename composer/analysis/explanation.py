"""Everything that `explain` measures of one composition on one prompt, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from composer.analysis.layer_ablation import BANDS, LayerAblation
from composer.analysis.subspace_overlap import Subspaces
from composer.analysis.token_attribution import NO_ADAPTER, Attribution
from composer.analysis.weight_deltas import Deltas
from composer.core.composition import Composition
from composer.core.jsonable import to_jsonable


@dataclass(frozen=True)
class Explanation:
    """n adapters are active: those with a weight, and those to which the method gives a gate without one.

    "Adapter i alone" means with its own column of the gates and, for token-routed methods, with the share
    that it has among all. What cannot be measured (a layer without sites, a composition that changes nothing,
    the conflict of outputs in a composition of logits) is NaN.
    """

    base: str
    prompt: str
    text: str
    composition: Composition
    adapters: tuple[str, ...]
    layers: int
    tokens: tuple[int, ...]
    # The text's T tokens as text.
    pieces: tuple[str, ...]
    gates: np.ndarray  # [L, n]
    # [L, n, n] cosine of the adapters' outputs with the signs of their gates, at the prompt's last token and
    # averaged over its tokens.
    conflict_last: np.ndarray
    conflict_mean: np.ndarray
    # Of the adapters' weights; None where they were not asked for.
    deltas: Deltas | None
    subspaces: Subspaces | None
    # [L, n, n] |y_j| / |y_i| at gate 1, in the pass with i alone on the prompt.
    leakage: np.ndarray
    # [L, n] |gate y_i|, each adapter's output as it is added, averaged over the prompt's tokens.
    outputs: np.ndarray
    # Of the logits of each token, [T]; NaN after the first LONGEST_ADDITIVITY tokens.
    additivity_by_token: np.ndarray
    attribution: Attribution
    bands: LayerAblation
    notes: Mapping[str, float]

    @property
    def additivity(self) -> float:
        """Of the logits after the prompt."""
        return float(self.additivity_by_token[0])

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Every pair of adapters, as indices of `adapters`."""
        count = len(self.adapters)
        return tuple((i, j) for i in range(count) for j in range(i + 1, count))

    def subtracts(self, adapter: int) -> bool:
        """Whether the adapter has gates below 0 on the whole."""
        return bool(self.gates[:, adapter].mean() < 0)

    @property
    def winners(self) -> tuple[str | None, ...]:
        """[T] the adapter that raised each token's log-probability most; None where none raised it."""
        return tuple(None if i == NO_ADAPTER else self.adapters[i] for i in self.attribution.winner)

    def to_json(self) -> dict:
        """Everything as lists, numbers and text; null for what cannot be measured."""
        made = {
            "base": self.base,
            "prompt": self.prompt,
            "text": self.text,
            "composition": self.composition.as_dict(),
            "adapters": self.adapters,
            "layers": self.layers,
            "merge": self.notes,
            "tokens": self.tokens,
            "pieces": self.pieces,
            "gates": self.gates,
            "conflict": {"last": self.conflict_last, "mean": self.conflict_mean},
            "deltas": self.deltas and asdict(self.deltas),
            "subspaces": self.subspaces and asdict(self.subspaces),
            "leakage": self.leakage,
            "outputs": self.outputs,
            "additivity": self.additivity,
            "additivity_by_token": self.additivity_by_token,
            "log_probs": asdict(self.attribution),
            "winners": self.winners,
            "bands": {"names": BANDS, "left_out": (*self.adapters, "all"), **asdict(self.bands)},
        }
        return to_jsonable(made)

"""From what was asked to the gate tensor: methods meet the prompt, and what they need is read for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from composer.methods import METHODS, Method, Prompted, Question, gates
from composer.model.route import Route
from composer.probing import Probe
from composer.shelf import Shelf, unknown
from composer.spec import BaseSpec, ComposerError, Composition, Fusion


class Gating:
    """Answers compositions with gates [L, N]. Holds no state of its own."""

    def __init__(self, layers: int, spec: BaseSpec, probe: Probe):
        self._layers, self._spec, self._probe = layers, spec, probe

    def gates(
        self, shelf: Shelf, composition: Composition, ids: Sequence[int], fusion: Fusion | None = None
    ) -> np.ndarray:
        """[L, N] for a prompt's token ids.

        fusion: the prompt's fusion over all adapters of the shelf, if the caller has it; saves a prefill
        for the methods that need it. Raises ComposerError for a name or a method that is not here.
        """
        method, weights = method_of(composition), self.weights(shelf, composition)
        known = fusion is not None and fusion.kl.shape == (self._layers, len(shelf.names))
        if method.needs == ("kl",) and known and composition.tokens == "last":
            prompt = Prompted(kl=fusion.kl)
        else:
            prompt = self._probe(method.needs, shelf, composition, ids, np.flatnonzero(weights).tolist())
        return gates(method, Question(weights, self._layers, self._groups(shelf), composition, prompt))

    def route(self, shelf: Shelf, composition: Composition) -> Route | None:
        """How tokens share out the gates; None where they do not, or where it would change nothing."""
        part = self.weights(shelf, composition) != 0  # [N]
        if not method_of(composition).routed or composition.blend == 0 or part.sum() < 2:
            return None
        return Route(part, composition.blend, composition.scale == "unit")

    def weights(self, shelf: Shelf, composition: Composition) -> np.ndarray:
        """[N]: each adapter's weight, 0 for those not named."""
        weights = np.zeros(len(shelf.names))
        for name, weight in composition.weights.items():
            weights[shelf.index(name)] = weight
        return weights

    def _groups(self, shelf: Shelf) -> tuple[tuple[int, ...], ...]:
        groups = (
            tuple(shelf.index(name) for name in group.members if name in shelf.names)
            for group in self._spec.attributes
        )
        return tuple(group for group in groups if len(group) > 1)


def method_of(composition: Composition) -> Method:
    """Raises ComposerError for a method that is not here."""
    if composition.method not in METHODS:
        raise ComposerError(unknown("method", composition.method, METHODS))
    return METHODS[composition.method]

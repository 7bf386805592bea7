"""From what was asked to the gate tensor: methods meet the prompt, and what they need is read for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from composer.methods import METHODS, Method, Question, gates
from composer.model.inject import GatedModel, gates_tensor
from composer.model.lens import Lens
from composer.model.step import Pass
from composer.shelf import Shelf, unknown
from composer.spec import BaseSpec, ComposerError, Composition, Fusion


class Gating:
    """Answers compositions with gates [L, N]. Holds no state of its own."""

    def __init__(self, model: GatedModel, spec: BaseSpec, reads: Pass):
        self._model, self._spec, self._pass, self._lens = model, spec, reads, Lens(model.model)

    def gates(
        self, shelf: Shelf, composition: Composition, ids: Sequence[int], fusion: Fusion | None = None
    ) -> np.ndarray:
        """[L, N] for a prompt's token ids.

        fusion: the prompt's fusion over all adapters of the shelf, if the caller has it; saves a prefill
        for the methods that need it. Raises ComposerError for a name or a method that is not here.
        """
        method, weights = _method(composition), self.weights(shelf, composition)
        kl = None
        if method.needs_kl:
            if fusion is not None and fusion.kl.shape == (self._model.layers, len(shelf.names)):
                kl = fusion.kl
            else:
                kl = np.zeros((self._model.layers, len(shelf.names)), np.float32)  # [L, N]
                if len(columns := np.flatnonzero(weights)):
                    kl[:, columns] = self.divergence(shelf, ids, columns.tolist(), composition.norm)
        question = Question(weights, self._model.layers, self._groups(shelf), composition, kl)
        return gates(method, question)

    def weights(self, shelf: Shelf, composition: Composition) -> np.ndarray:
        """[N]: each adapter's weight, 0 for those not named."""
        weights = np.zeros(len(shelf.names))
        for name, weight in composition.weights.items():
            weights[shelf.index(name)] = weight
        return weights

    def divergence(self, shelf: Shelf, ids: Sequence[int], columns: list[int], norm: bool) -> np.ndarray:
        """KL of the base's lens from each column's adapter alone, [L, len(columns)] nats: one prefill."""
        rows, layers = len(columns) + 1, self._model.layers
        alone = np.zeros((rows, layers, len(shelf.names)), np.float32)  # [1 + N, L, N]
        for row, column in enumerate(columns, start=1):
            alone[row, :, column] = 1
        device = shelf.layout.owner.device
        read = self._pass.read(shelf.layout, gates_tensor(alone, device), [ids] * rows, unembed=False)
        return self._lens.divergence(read.hidden, norm).cpu().numpy()

    def _groups(self, shelf: Shelf) -> tuple[tuple[int, ...], ...]:
        groups = (
            tuple(shelf.index(name) for name in group.members if name in shelf.names)
            for group in self._spec.attributes
        )
        return tuple(group for group in groups if len(group) > 1)


def _method(composition: Composition) -> Method:
    if composition.method not in METHODS:
        raise ComposerError(unknown("method", composition.method, METHODS))
    return METHODS[composition.method]

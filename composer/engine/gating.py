"""From what was asked to a row's voices: methods meet the prompt, and what they need is read for them."""

from __future__ import annotations

from collections.abc import Sequence

from composer.core.catalog_types import BaseSpec
from composer.core.composition import Composition
from composer.core.results import Fusion
from composer.engine.adapter_snapshot import Shelf
from composer.engine.casting import Cast, method_of
from composer.engine.prompt_stats import Probe
from composer.methods import Prompted, Question, voices
from composer.model.logit_mixture import Voices
from composer.model.runtime.token_routing import Route


class Gating:
    """Answers compositions with voices. Holds no state of its own."""

    def __init__(self, layers: int, spec: BaseSpec, probe: Probe):
        self._layers, self._spec, self._probe = layers, spec, probe

    def voices(
        self,
        shelf: Shelf,
        cast: Cast,
        composition: Composition,
        ids: Sequence[int],
        fusion: Fusion | None = None,
    ) -> Voices:
        """How a prompt's token ids are continued; gates over the bank. shelf: one with the cast's columns.

        fusion: the prompt's fusion, if the caller has it; where it is what the method needs, it saves a
        prefill. Raises ComposerError for a method that is not here.
        """
        method = method_of(composition)
        if self.knows(cast, composition, fusion):
            prompt = Prompted(kl=fusion.kl)
        else:
            prompt = self._probe(method.needs, shelf, composition, ids, cast)
        asked = Question(cast.weights, self._layers, self._groups(cast), composition, prompt)
        own = voices(method, asked)
        return Voices(own.mix, cast.spread(own.gates, len(shelf.bank.names)))

    def knows(self, cast: Cast, composition: Composition, fusion: Fusion | None) -> bool:
        """Whether a fusion of the prompt is all that the method wants to know of it."""
        if fusion is None or method_of(composition).needs != ("kl",):
            return False
        read = (fusion.norm, fusion.tokens, fusion.calibrated)
        wanted = (composition.norm, composition.tokens, bool(cast.leases))
        return read == wanted and fusion.kl.shape == (self._layers, len(cast.names))

    def route(self, shelf: Shelf, cast: Cast, composition: Composition) -> Route | None:
        """How tokens share out the gates; None where they do not, or where it would change nothing."""
        part = cast.weights != 0  # [n]
        if not method_of(composition).routed or composition.blend == 0 or part.sum() < 2:
            return None
        whole = cast.spread(part, len(shelf.bank.names))  # [N]
        return Route(whole, composition.blend, composition.scale == "unit")

    def _groups(self, cast: Cast) -> tuple[tuple[int, ...], ...]:
        groups = (
            tuple(cast.names.index(name) for name in group.members if name in cast.names)
            for group in self._spec.attributes
        )
        return tuple(group for group in groups if len(group) > 1)

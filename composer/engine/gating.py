"""From what was asked to a row's voices: methods meet the prompt, and what they need is read for them."""

from __future__ import annotations

from collections.abc import Sequence

from composer.core.catalog_types import BaseSpec
from composer.core.composition import Composition
from composer.core.results import Fusion
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.engine.casting import ResolvedComposition, method_of
from composer.engine.prompt_stats import PromptAnalyzer
from composer.methods import GateInputs, PromptStats, logit_mixture
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.token_routing import RouterConfig


class GatePlanner:
    """Answers compositions with voices. Holds no state of its own."""

    def __init__(self, layers: int, spec: BaseSpec, probe: PromptAnalyzer):
        self._layers, self._spec, self._analyzer = layers, spec, probe

    def mixture(
        self,
        snapshot: AdapterSnapshot,
        cast: ResolvedComposition,
        composition: Composition,
        ids: Sequence[int],
        fusion: Fusion | None = None,
    ) -> LogitMixture:
        """How a prompt's token ids are continued; gates over the bank. shelf: one with the cast's columns.

        fusion: the prompt's fusion, if the caller has it; where it is what the method needs, it saves a
        prefill. Raises ComposerError for a method that is not here.
        """
        method = method_of(composition)
        if self.knows(cast, composition, fusion):
            prompt = PromptStats(kl=fusion.kl)
        else:
            prompt = self._analyzer(method.prompt_stats, snapshot, composition, ids, cast)
        asked = GateInputs(cast.weights, self._layers, self._groups(cast), composition, prompt)
        own = logit_mixture(method, asked)
        return LogitMixture(own.mix, cast.spread(own.gates, len(snapshot.bank.names)))

    def knows(self, cast: ResolvedComposition, composition: Composition, fusion: Fusion | None) -> bool:
        """Whether a fusion of the prompt is all that the method wants to know of it."""
        if fusion is None or method_of(composition).prompt_stats != ("kl",):
            return False
        read = (fusion.norm, fusion.tokens, fusion.calibrated)
        wanted = (composition.norm, composition.tokens, bool(cast.leases))
        return read == wanted and fusion.kl.shape == (self._layers, len(cast.names))

    def route(
        self, snapshot: AdapterSnapshot, cast: ResolvedComposition, composition: Composition
    ) -> RouterConfig | None:
        """How tokens share out the gates; None where they do not, or where it would change nothing."""
        part = cast.weights != 0  # [n]
        if not method_of(composition).token_routed or composition.blend == 0 or part.sum() < 2:
            return None
        whole = cast.spread(part, len(snapshot.bank.names))  # [N]
        return RouterConfig(whole, composition.blend, composition.scale == "unit")

    def _groups(self, cast: ResolvedComposition) -> tuple[tuple[int, ...], ...]:
        groups = (
            tuple(cast.names.index(name) for name in group.members if name in cast.names)
            for group in self._spec.attributes
        )
        return tuple(group for group in groups if len(group) > 1)

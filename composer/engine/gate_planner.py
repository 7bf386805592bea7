"""From a resolved composition and a prompt to gates: computes what the method needs of the prompt first."""

from __future__ import annotations

from collections.abc import Sequence

from composer.core.results import Fusion
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.engine.prompt_analyzer import PromptAnalyzer
from composer.engine.resolve import ResolvedComposition
from composer.methods import GateInputs, PromptStats, logit_mixture
from composer.model.logit_mixture import LogitMixture


class GatePlanner:
    """Plans the gates of a generation. Holds no state of its own."""

    def __init__(self, analyzer: PromptAnalyzer):
        self._analyzer = analyzer

    def __call__(
        self,
        snapshot: AdapterSnapshot,
        resolved: ResolvedComposition,
        ids: Sequence[int],
        fusion: Fusion | None = None,
        token: int = 1,
    ) -> LogitMixture:
        """The branches that continue the token ids, with gates over the bank's columns.

        snapshot: one that has the composition's columns. fusion: the prompt's, if it is known; it saves a
        prefill where it is all that the method needs. token: the number of the new token that comes next,
        counted from 1, for the schedule.
        """
        stats = PromptStats()
        if missing := resolved.missing_stats(fusion):
            stats = self._analyzer(missing, snapshot, resolved, ids)
        elif fusion is not None and resolved.method.prompt_stats:
            stats = PromptStats(kl=fusion.kl)
        inputs = GateInputs(
            resolved.weights_at(token),
            resolved.layers,
            resolved.groups,
            resolved.composition,
            stats,
            resolved.curves,
        )
        mixture = logit_mixture(resolved.method, inputs)
        return LogitMixture(mixture.mix, resolved.scatter_to_bank(mixture.gates, len(snapshot.bank.names)))

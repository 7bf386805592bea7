"""The likeliest next tokens of a prompt, under the base and under a composition, from one prefill."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from composer.analysis.branches import lanes_alone
from composer.core.composition import Composition, Sampling
from composer.engine.engine import AnyComposition, Engine
from composer.model.gated_model import gates_tensor
from composer.model.logit_combiner import LogitCombiner
from composer.model.logit_mixture import LogitMixture
from composer.model.rank_layout import Layout
from composer.model.runtime.finite import check_drawable
from composer.model.runtime.token_routing import RouterConfig

COUNT = 10
# Branches whose log-probabilities are kept: 200 kB each at a vocabulary of 49,152.
KEPT = 64


@dataclass(frozen=True)
class NextTokens:
    """K tokens, sorted by their probability under the composition, before any sampling filter."""

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]  # each token as text
    adapters: tuple[str, ...]  # the n with a weight
    base: np.ndarray  # probabilities, [K]
    composed: np.ndarray  # [K]
    # How much each adapter alone, with the gates it has in the composition, raises a token's log-probability
    # over the base, in nats: [n, K].
    push: np.ndarray
    kl: float  # KL(composed || base) over the whole vocabulary, in nats


class NextTokenReader:
    """Reads the next tokens of prompts, one call at a time.

    It keeps the log-probabilities of the last branches that it read: when one slider moves, the base and the
    other adapters alone are what they were.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._layout: Layout | None = None
        self._known: OrderedDict[Hashable, np.ndarray] = OrderedDict()  # -> [V] float32

    def __call__(
        self,
        prompt: str,
        composition: AnyComposition = Composition(),
        count: int = COUNT,
        written: Sequence[int] = (),
    ) -> NextTokens:
        """The `count` tokens that are likeliest under the base or under the composition.

        written: tokens of the continuation that are there already. Raises ComposerError for a prompt or a
        composition that cannot be used.
        """
        row = self._engine.row(0, prompt, composition, Sampling(), written=written)
        # Opposites that a method subtracts would each cost a row for every move of a slider.
        part = np.flatnonzero(row.resolved.weights)
        columns = row.resolved.columns[part]
        mixtures = [*lanes_alone(row.mixture, columns), row.mixture]
        *alone, base, composed = self._log_probs(row.ids, mixtures, row.router)
        likeliest = np.argpartition(-np.maximum(base, composed), count)[:count]
        chosen = likeliest[np.argsort(-composed[likeliest], kind="stable")]
        tokenizer = self._engine.base.tokenizer
        pushes = [each[chosen] - base[chosen] for each in alone]
        return NextTokens(
            tuple(chosen.tolist()),
            tuple(tokenizer.decode([token]) for token in chosen.tolist()),
            tuple(row.resolved.lanes[lane] for lane in part),
            np.exp(base[chosen]),
            np.exp(composed[chosen]),
            np.stack(pushes) if pushes else np.zeros((0, count), np.float32),
            max(0.0, float(np.exp(composed) @ (composed - base))),
        )

    def _log_probs(
        self, ids: Sequence[int], mixtures: Sequence[LogitMixture], router: RouterConfig | None
    ) -> list[np.ndarray]:
        layout = self._engine.snapshot.layout
        if layout is not self._layout:
            self._layout = layout
            self._known.clear()
        keys = [_key(ids, mixture, router) for mixture in mixtures]
        new = {key: each for key, each in zip(keys, mixtures, strict=True) if key not in self._known}
        if new:
            read = _read(self._engine, layout, ids, list(new.values()), router)
            self._known.update(zip(new, read, strict=True))
        for key in keys:
            self._known.move_to_end(key)
        found = [self._known[key] for key in keys]
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return found


def _key(ids: Sequence[int], mixture: LogitMixture, router: RouterConfig | None) -> Hashable:
    route = None if router is None else (router.part.tobytes(), router.blend, router.unit)
    return tuple(ids), mixture.mix.tobytes(), mixture.gates.tobytes(), route


def _read(
    engine: Engine,
    layout: Layout,
    ids: Sequence[int],
    mixtures: Sequence[LogitMixture],
    router: RouterConfig | None,
) -> np.ndarray:
    """Log-probabilities of the next token, a row per mixture: float32 [n, V]."""
    device = engine.base.device
    branches = np.concatenate([mixture.gates for mixture in mixtures])  # [P, L, N]
    routes = [router] * len(branches)
    read = engine.runner.read(layout, gates_tensor(branches, device), [ids] * len(branches), routes=routes)
    logits = check_drawable(LogitCombiner(mixtures, device)(read.logits))
    return logits.float().log_softmax(-1).cpu().numpy()

"""Mean next-token losses of passages under many gates: teacher forcing, nothing sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from composer.adapters.bank import AdapterBank
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.model.gated_model import gates_tensor
from composer.model.in_use import in_use
from composer.model.lens import Lens
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.finite import OVERFLOW
from composer.model.runtime.scoring import CHUNK_TOKENS, token_log_probs
from composer.model.runtime.token_routing import RouterConfig
from composer.study.domains.passages import Passage

# Passages scored together; rows that use the same adapters share passes.
CHUNK = 16
# How far two ways to compute a loss may be apart, nats a token.
ROUNDING = 0.01


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to read a passage: gates [L, N] over the bank's columns, and how tokens share them out."""

    gates: np.ndarray
    router: RouterConfig | None = None  # None: tokens do not

    @property
    def group(self) -> tuple[object, ...]:
        """Candidates of one group can share a pass: the adapters in use, and the router."""
        used = np.flatnonzero(self.gates.any(axis=0))
        if self.router is None:
            return (used.tobytes(),)
        return (used.tobytes(), self.router.part.tobytes(), self.router.blend, self.router.unit)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for candidates that compute the same."""
        return (*self.group, self.gates.tobytes())


# A passage's place, one of its candidates, and the columns of all candidates that compute the same.
_Row = tuple[int, Candidate, list[int]]


def mean_losses(
    engine: Engine,
    passages: Sequence[Passage],
    candidates: Sequence[Sequence[Candidate]],
    progress: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """[P, C] float64, nats a token: the mean of -log p over the tokens after a passage's query.

    passages: of one length, with queries of one length. candidates: C for each of the P passages; equal ones
    are computed once. The runner is that of generation, and the query's tokens are read under the candidate's
    gates, as a prompt's are. progress: receives how many passages were scored since its last call. Raises
    ComposerError where logits are not finite, and for a base whose logits are not its unembedded hidden
    states.
    """
    if len({(len(passage.ids), passage.query) for passage in passages}) > 1:
        raise ValueError("passages of one length, with queries of one length, are needed")
    lens = Lens(engine.model.model)
    found = np.empty((len(passages), len(candidates[0]) if passages else 0))
    if passages:
        _check_unembedding(engine, lens, passages[0])
    for start in range(0, len(passages), CHUNK):
        some = range(start, min(start + CHUNK, len(passages)))
        for group in _groups(some, candidates):
            while group:
                now = max(1, CHUNK_TOKENS // len(passages[start].ids))
                rows, group = group[:now], group[now:]
                losses = _read(
                    engine, lens, [passages[place] for place, _, _ in rows], [own for _, own, _ in rows]
                )
                for (place, _, columns), loss in zip(rows, losses, strict=True):
                    found[place, columns] = loss
        progress(len(some))
    if not np.isfinite(found).all():
        raise ComposerError(OVERFLOW)
    return found


def _groups(places: Sequence[int], candidates: Sequence[Sequence[Candidate]]) -> Iterator[list[_Row]]:
    """Rows that can share passes."""
    groups: dict[tuple[object, ...], dict[tuple[object, ...], _Row]] = {}
    for place in places:
        for column, each in enumerate(candidates[place]):
            rows = groups.setdefault(each.group, {})
            rows.setdefault((place, *each.key), (place, each, []))[2].append(column)
    yield from (list(rows.values()) for rows in groups.values())


def _read(
    engine: Engine, lens: Lens, passages: Sequence[Passage], candidates: Sequence[Candidate]
) -> np.ndarray:
    """[G] float64: one passage under one candidate each, all of one group, in one pass."""
    gates = [each.gates for each in candidates]
    layout, used, routes = in_use(engine.snapshot.layout, gates, [each.router for each in candidates])
    ids = [list(passage.ids) for passage in passages]
    device, start = engine.model.device, passages[0].query
    read = engine.runner.read(
        layout, gates_tensor(used, device), ids, unembed=False, every=True, routes=routes
    )
    hidden = read.hidden[-1][:, start - 1 : -1]  # [G, T, d]
    scores = lens.log_probs(hidden.flatten(0, 1), norm=True)  # [G T, V]
    wanted = torch.tensor(ids, device=device)[:, start:].flatten()  # [G T]
    own = scores.gather(1, wanted[:, None]).view(len(ids), -1)  # [G, T]
    return -own.double().mean(dim=1).cpu().numpy()


def _check_unembedding(engine: Engine, lens: Lens, passage: Passage) -> None:
    """Raise for a base that does more to its logits than unembed (a soft cap, a scale)."""
    bare = np.zeros((engine.model.layers, len(engine.snapshot.bank.names)), np.float32)
    ours = _read(engine, lens, [passage], [Candidate(bare)])[0]
    layout, mixture = engine.model.layout(AdapterBank()), LogitMixture.one(bare[:, :0])
    whole = token_log_probs(engine.model, layout, [passage.ids], [mixture])[0]
    if abs(ours + whole[passage.query - 1 :].mean()) > ROUNDING:
        raise ComposerError(
            f"The logits of {engine.base.id} are not its unembedded hidden states, which this test reads; "
            "choose another base."
        )

"""A finished text read once more, token by token: what each adapter pushed, and what each was drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from composer.analysis.branches import active_lanes, lanes_alone
from composer.analysis.token_attribution import Attribution
from composer.core.composition import Sampling
from composer.core.errors import ComposerError
from composer.engine.engine import AnyComposition, Engine
from composer.engine.execution import Executor, run_inline
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.teacher_forcing import forced

# Likeliest tokens of a position.
COUNT = 10


@dataclass(frozen=True)
class TextReading:
    """T tokens under the base, under each of n adapters alone and under the composition.

    An adapter alone has the gates that it has in the composition. K tokens a position, sorted by their
    probability under the composition, before any sampling filter; the sampled one is among them.
    """

    adapters: tuple[str, ...]
    attribution: Attribution
    likeliest: np.ndarray  # [T, K] token ids
    pieces: tuple[tuple[str, ...], ...]  # each of them as text
    base: np.ndarray  # probabilities, [T, K]
    composed: np.ndarray  # [T, K]
    push: np.ndarray  # what each adapter alone adds to their log-probabilities, in nats, [n, T, K]


def read_text(
    engine: Engine,
    prompt: str,
    tokens: Sequence[int],
    composition: AnyComposition,
    execute: Executor = run_inline,
    count: int = COUNT,
) -> TextReading:
    """Read prompt and tokens once under each of the n + 2 ways. execute: runs each of them.

    Raises ComposerError for a text without tokens, and for gates that change within the text: then no single
    pass reads each token under the gates that it was sampled under.
    """
    row = engine.row(0, prompt, composition, Sampling())
    if not tokens:
        raise ComposerError("The text has no token yet.")
    if row.resolved.refresh_every or row.resolved.schedule_changes:
        raise ComposerError("The weights changed within this text, so it is not read once more.")
    part = active_lanes(row.resolved, row.mixture.gates)
    layout = engine.snapshot.layout

    def scores(mixture: LogitMixture) -> torch.Tensor:
        """[T, V] log-probabilities."""
        (found,) = forced(engine.model, layout, row.ids, tokens, [mixture], route=row.router, whole=True)
        assert found.scores is not None
        return found.scores[0]

    *alone, bare = lanes_alone(row.mixture, row.resolved.columns[part])
    composed, base = (execute(partial(scores, each)) for each in (row.mixture, bare))  # [T, V]
    sampled = torch.tensor(tokens, device=composed.device)[:, None]  # [T, 1]
    likeliest = _with_sampled(composed, base, sampled, count)  # [T, K]
    wanted = torch.cat([sampled, likeliest], dim=1)  # [T, 1 + K]

    def picked(mixture: LogitMixture) -> np.ndarray:
        return _pick(scores(mixture), wanted)

    own = np.stack([_pick(composed, wanted), _pick(base, wanted)])  # [2, T, 1 + K]
    each = [execute(partial(picked, mixture)) for mixture in alone]
    others = np.stack(each) if each else np.zeros((0, *own.shape[1:]), np.float32)  # [n, T, 1 + K]
    decode = engine.base.tokenizer.decode
    return TextReading(
        tuple(row.resolved.lanes[lane] for lane in part),
        Attribution(own[1, :, 0], others[:, :, 0], own[0, :, 0]),
        likeliest.cpu().numpy(),
        tuple(tuple(decode([token]) for token in position) for position in likeliest.tolist()),
        np.exp(own[1, :, 1:]),
        np.exp(own[0, :, 1:]),
        others[:, :, 1:] - own[1, :, 1:],
    )


def _with_sampled(
    composed: torch.Tensor, base: torch.Tensor, sampled: torch.Tensor, count: int
) -> torch.Tensor:
    """[T, K]: the likeliest under either, and the sampled token, sorted by the composition."""
    rank = torch.maximum(composed, base).scatter(1, sampled, torch.inf)
    ids = rank.topk(min(count, rank.shape[1]), dim=1).indices
    order = composed.gather(1, ids).argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order)


def _pick(scores: torch.Tensor, wanted: torch.Tensor) -> np.ndarray:
    return scores.gather(1, wanted).cpu().numpy()

"""Teacher forcing: one text under many gates, nothing sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from composer.model.gated_model import GateCall, GatedModel, gates_tensor
from composer.model.logit_combiner import LogitCombiner
from composer.model.logit_mixture import LogitMixture, rows_per_pass
from composer.model.rank_layout import Layout
from composer.model.runtime.finite import check_drawable
from composer.model.runtime.scoring import CHUNK_TOKENS
from composer.model.runtime.token_routing import RouterConfig, TokenRouter


class SiteObserver(Protocol):
    """Called by a pass at every site, like TelemetryRecorder, with z = (x A^T) * s [G, T, R] and W0 x
    [G, T, d_out]."""

    def note(self, path: str, z: torch.Tensor, out: torch.Tensor) -> None: ...


class Forced(NamedTuple):
    """The results of a pass over G rows."""

    # Logits of the token after the prompt, [G, V] float32.
    first: torch.Tensor
    # Of every token of the text, in nats, [G, T].
    log_probs: torch.Tensor
    # The observer of this pass.
    observer: SiteObserver | None
    # Logits and log-probabilities of the whole vocabulary, [G, T, V]; None where they were not asked for.
    logits: torch.Tensor | None = None
    scores: torch.Tensor | None = None


def forced(
    model: GatedModel,
    layout: Layout,
    prompt: Sequence[int],
    text: Sequence[int],
    mixture: Sequence[LogitMixture],
    observe: Callable[[], SiteObserver] | None = None,
    route: RouterConfig | None = None,
    whole: bool = False,
) -> Iterator[Forced]:
    """Read prompt + text once per branch of each row, a few thousand tokens per pass, in the rows' order.

    text: at least one token. observe: makes the observer of a pass, which sees all branches. route: the token
    router of every row. whole: also yield logits and scores, which take T * V numbers a row each.

    Raises ComposerError where logits are not finite.
    """
    device = model.device
    ids = torch.tensor([*prompt, *text[:-1]], device=device)
    wanted = torch.tensor(text, device=device)[None, :, None]  # [1, T, 1]
    rest, layout = list(mixture), layout.for_a_pass()
    while rest:
        count = rows_per_pass(rest, CHUNK_TOKENS // len(ids))
        part, rest = rest[:count], rest[count:]
        observer = observe() if observe else None
        gates = gates_tensor(np.concatenate([each.gates for each in part]), device)  # [P, L, N]
        branch_logits = model(
            GateCall(layout, gates, TokenRouter.of(layout, [route] * len(gates)), recorder=observer),
            input_ids=ids.expand(len(gates), -1),
            use_cache=False,
            logits_to_keep=len(text),
        ).logits.float()  # [P, T, V]
        logits = check_drawable(LogitCombiner(part, device)(branch_logits))  # [G, T, V]
        picked = wanted.expand(len(part), -1, -1)
        scores = logits.log_softmax(dim=-1)  # [G, T, V]
        log_probs = scores.gather(2, picked).squeeze(-1)  # [G, T]
        # A copy: a view would keep every token's logits alive.
        every = (logits, scores) if whole else (None, None)
        yield Forced(logits[:, 0].clone(), log_probs, observer, *every)

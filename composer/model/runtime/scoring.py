"""How likely a finished text is: one teacher-forced pass, nothing sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from composer.model.gated_model import GateCall, GatedModel, gates_tensor
from composer.model.in_use import in_use
from composer.model.logit_combiner import LogitCombiner
from composer.model.logit_mixture import LogitMixture, rows_per_pass
from composer.model.rank_layout import Layout
from composer.model.runtime.finite import check_largest
from composer.model.runtime.token_routing import RouterConfig, TokenRouter
from composer.model.token_loss import plain_head

CHUNK_TOKENS = 512
# Positions whose logits are held at a time.
ROWS = 256


@torch.inference_mode()
def token_log_probs(
    model: GatedModel,
    layout: Layout,
    texts: Sequence[Sequence[int]],
    mixture: Sequence[LogitMixture],
    route: RouterConfig | None = None,
) -> list[np.ndarray]:
    """Log-probability in nats of every token after the first; texts are token ids, the route every text's.

    Texts of like length are scored together, a few hundred tokens at a time, which is no slower than more.
    Raises ComposerError where the numbers overflow.
    """
    scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(texts)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    while order:
        width = len(texts[order[-1]])
        count = rows_per_pass((mixture[row] for row in reversed(order)), CHUNK_TOKENS // width)
        rows = [order.pop() for _ in range(count)]
        here = [mixture[row] for row in rows]
        # Causal attention never looks right, so padding there needs no mask.
        padded = [list(texts[row]) + [0] * (width - len(texts[row])) for row in rows]
        ids = torch.tensor(padded, device=model.device)  # [G, T]
        spoken = ids.repeat_interleave(torch.tensor([len(each) for each in here], device=ids.device), dim=0)
        branches = [own for each in here for own in each.gates]  # P of [L, N]
        active, gates, routes = in_use(layout, branches, [route] * len(branches))
        active = active.for_a_pass()
        call = GateCall(active, gates_tensor(gates, ids.device), TokenRouter.of(active, routes))
        combine, following = LogitCombiner(here, ids.device), ids[:, 1:]  # [G, T-1]
        parts, start = [], 0
        for logits in _logits_in_parts(model, call, spoken):
            end = start + logits.shape[1]
            parts.append(_log_probs(combine(logits.to(ids.device).float()), following[:, start:end]))
            start = end
        logs = torch.cat(parts, dim=1)  # [G, T-1]
        for row, log in zip(rows, logs.cpu().numpy(), strict=True):
            scores[row] = log[: len(texts[row]) - 1]
    return scores


def _logits_in_parts(model: GatedModel, call: GateCall, ids: torch.Tensor) -> Iterator[torch.Tensor]:
    """The logits of ids [P, T] at every position but the last, in order, as parts of [P, t, V].

    With a vocabulary of 262,144 (Gemma 3), touching that much new memory takes as long as the products
    that fill it: where the output layer is a plain one, one buffer holds every part, so each is read before
    the next is asked for.
    """
    head = plain_head(model.model.config, model.model.get_output_embeddings())
    size = max(1, ROWS // len(ids))
    if head is None:
        yield from model(call, input_ids=ids, use_cache=False).logits[:, :-1].split(size, dim=1)
        return
    hidden = model.body(call, input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # [P, T-1, d]
    buffer = head.new_empty(min(size, hidden.shape[1]) * len(ids), len(head))  # [P * t, V]
    for part in hidden.to(head.device).split(size, dim=1):
        rows = part.flatten(0, 1)  # [P * t, d]
        yield torch.mm(rows, head.T, out=buffer[: len(rows)]).unflatten(0, part.shape[:2])


def _log_probs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of tokens [G, t] under logits [G, t, V] float32, which are overwritten: [G, t]."""
    top = check_largest(logits.amax(dim=2))  # [G, t]
    own = logits.gather(2, tokens[..., None]).squeeze(2)  # [G, t]
    return own - top - logits.sub_(top[..., None]).exp_().sum(dim=2).log()

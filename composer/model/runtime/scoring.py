"""How likely a finished text is: one teacher-forced pass, nothing sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from composer.model.gated_model import GateCall, GatedModel, gates_tensor
from composer.model.in_use import in_use
from composer.model.logit_combiner import LogitCombiner
from composer.model.logit_mixture import LogitMixture, rows_per_pass
from composer.model.rank_layout import Layout
from composer.model.runtime.finite import check_drawable
from composer.model.runtime.token_routing import RouterConfig, TokenRouter

CHUNK_TOKENS = 512


def token_log_probs(
    model: GatedModel,
    layout: Layout,
    texts: Sequence[Sequence[int]],
    mixture: Sequence[LogitMixture],
    route: RouterConfig | None = None,
) -> list[np.ndarray]:
    """Log-probability in nats of every token after the first; texts are token ids, the route every text's.

    Texts of like length are scored together, a few hundred tokens at a time: [rows, T, V] is large, and more
    of it is no quicker. Raises ComposerError where the numbers overflow.
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
        logits = model(call, input_ids=spoken, use_cache=False).logits[:, :-1].float()  # [P, T-1, V]
        logits = check_drawable(LogitCombiner(here, ids.device)(logits))  # [G, T-1, V]
        logs = torch.log_softmax(logits, dim=-1).gather(2, ids[:, 1:, None])  # [G, T-1, 1]
        for row, log in zip(rows, logs.squeeze(-1).cpu().numpy(), strict=True):
            scores[row] = log[: len(texts[row]) - 1]
    return scores

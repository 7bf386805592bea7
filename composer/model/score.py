"""How likely a finished text is: one teacher-forced pass, nothing sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from composer.model.inject import GateCall, GatedModel
from composer.model.layout import Layout
from composer.model.route import Route, Routing

CHUNK_TOKENS = 2048


def token_log_probs(
    model: GatedModel,
    layout: Layout,
    texts: Sequence[Sequence[int]],
    gates: torch.Tensor,
    route: Route | None = None,
) -> list[np.ndarray]:
    """Log-probability in nats of every token after the first; texts are token ids, gates [B, L, N], and the
    route is every text's.

    Texts of like length are scored together, a few thousand tokens at a time: [rows, T, V] is large.
    """
    scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(texts)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    while order:
        width = len(texts[order[-1]])
        rows = [order.pop() for _ in range(min(len(order), max(1, CHUNK_TOKENS // width)))]
        # Causal attention never looks right, so padding there needs no mask.
        ids = [list(texts[row]) + [0] * (width - len(texts[row])) for row in rows]
        inputs = torch.tensor(ids, device=gates.device)  # [G, T]
        call = GateCall(layout, gates[rows], Routing.of(layout, [route] * len(rows)))
        logits = model(call, input_ids=inputs, use_cache=False).logits  # [G, T, V]
        logs = torch.log_softmax(logits[:, :-1].float(), dim=-1).gather(2, inputs[:, 1:, None])  # [G, T-1, 1]
        for row, log in zip(rows, logs.squeeze(-1).cpu().numpy(), strict=True):
            scores[row] = log[: len(texts[row]) - 1]
    return scores

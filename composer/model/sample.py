"""Drawing one token per row: transformers' logits processors, then one seeded uniform number a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from composer.spec import Sampling


class Sampler:
    """Draws for B rows, each with its own settings and its own stream of random numbers.

    A row's stream depends on its seed alone, so a row draws the same tokens in any company (up to
    floating-point differences of the logits).
    """

    def __init__(self, samplings: Sequence[Sampling]):
        self._streams = [torch.Generator().manual_seed(sampling.seed) for sampling in samplings]
        self._groups: dict[tuple, list[int]] = {}
        for row, s in enumerate(samplings):
            key = (s.temperature, s.top_k, s.top_p, s.repetition_penalty)
            self._groups.setdefault(key, []).append(row)

    def draw(self, logits: torch.Tensor, history: Sequence[torch.Tensor]) -> list[int]:
        """One token id per row. logits: [B, V]. history: per row the ids so far, prompt included."""
        uniform = torch.stack([torch.rand((), generator=stream) for stream in self._streams])  # [B]
        drawn = [0] * len(logits)
        for (temperature, top_k, top_p, penalty), rows in self._groups.items():
            scores = logits[rows].float()  # [G, V]
            if penalty != 1.0:
                process = RepetitionPenaltyLogitsProcessor(penalty)
                scores = torch.cat(
                    [process(history[row][None], scores[i : i + 1]) for i, row in enumerate(rows)]
                )
            if temperature == 0:
                tokens = scores.argmax(dim=-1)
            else:
                tokens = _filtered_draw(scores, uniform[rows], temperature, top_k, top_p)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                drawn[row] = token
        return drawn


def _filtered_draw(
    scores: torch.Tensor, uniform: torch.Tensor, temperature: float, top_k: int, top_p: float
) -> torch.Tensor:
    """Inverse-CDF draw from the filtered distribution; [G, V] scores and [G] uniforms -> [G] ids."""
    unused = torch.empty((len(scores), 0), dtype=torch.long)
    scores = TemperatureLogitsWarper(float(temperature))(unused, scores)
    ids = None
    if 0 < top_k < scores.shape[-1]:
        # top-p sorts whatever it is given: hand it the k survivors instead of the whole vocabulary.
        scores, ids = TopKLogitsWarper(top_k)(unused, scores).topk(top_k, dim=-1)  # [G, k]
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(unused, scores)
    cumulative = scores.softmax(dim=-1).cumsum(dim=-1)  # [G, k or V]
    target = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True).clamp_max(scores.shape[-1] - 1)  # [G, 1]
    return (place if ids is None else ids.gather(1, place)).squeeze(1)

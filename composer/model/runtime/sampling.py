"""Samples one token per row: transformers' logits processors, then one seeded uniform number per row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from composer.core.composition import Sampling
from composer.model.runtime.finite import drawable

# Below this temperature sampling is greedy, to the resolution of a float32 logit.
GREEDY_BELOW = 1e-6
# Logits beyond this would overflow when they are divided by a small temperature.
LARGE = 1e6
# The token id of a row whose logits are not finite.
NO_TOKEN = -1


class RowSampler:
    """One row's sampling settings and its own random numbers.

    The numbers depend on the seed alone, so the other rows of a batch do not change a row's tokens (up to
    floating-point differences of the logits).
    """

    def __init__(self, sampling: Sampling):
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def skip(self, count: int) -> None:
        """Pass over the numbers of tokens that were sampled before."""
        for _ in range(count):
            self.uniform()

    def uniform(self) -> float:
        """The next number in [0, 1)."""
        return float(torch.rand((), generator=self._generator))


def sample_next_tokens(
    samplers: Sequence[RowSampler], histories: Sequence[Sequence[int]], logits: torch.Tensor
) -> list[int]:
    """One token id per row; NO_TOKEN for a row whose logits are not finite.

    logits: [B, V]. histories: each row's ids so far, the prompt included. Rows with the same settings are
    sampled together, on the logits' device, and all ids are copied back at once.
    """
    possible = drawable(logits)  # [B]
    uniform = torch.tensor([stream.uniform() for stream in samplers]).to(logits.device)  # [B]
    drawn = torch.empty(len(samplers), dtype=torch.int64, device=logits.device)
    groups: dict[tuple, list[int]] = {}
    for row, stream in enumerate(samplers):
        s = stream.sampling
        groups.setdefault((s.temperature, s.top_k, s.top_p, s.repetition_penalty), []).append(row)
    for (temperature, top_k, top_p, penalty), rows in groups.items():
        alone = len(groups) == 1
        scores = (logits if alone else logits[rows]).float()  # [G, V]
        if penalty != 1.0:
            process = RepetitionPenaltyLogitsProcessor(penalty)
            past = [torch.tensor([histories[row]], device=logits.device) for row in rows]
            scores = torch.cat([process(past[i], scores[i : i + 1]) for i in range(len(rows))])
            scores = scores.clamp_max(torch.finfo(scores.dtype).max)
        if temperature < GREEDY_BELOW:
            tokens = scores.argmax(dim=-1)
        else:
            tokens = _filtered_draw(scores, uniform if alone else uniform[rows], temperature, top_k, top_p)
        drawn[rows] = tokens
    return drawn.where(possible, NO_TOKEN).tolist()


def _filtered_draw(
    scores: torch.Tensor, uniform: torch.Tensor, temperature: float, top_k: int, top_p: float
) -> torch.Tensor:
    """Inverse-CDF draw from the filtered distribution; [G, V] scores and [G] uniforms -> [G] ids."""
    unused = torch.empty((len(scores), 0), dtype=torch.long)
    ids = None
    if 0 < top_k < scores.shape[-1]:
        # Top-k first: the temperature does not change which tokens stay, and top-p sorts what it is given.
        scores, ids = scores.topk(top_k, dim=-1)  # [G, k]
    top = scores.amax(dim=-1, keepdim=True)  # [G, 1]
    scores = scores - top.where(top.abs() > LARGE, 0)
    scores = TemperatureLogitsWarper(float(temperature))(unused, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(unused, scores)
    cumulative = scores.softmax(dim=-1).cumsum(dim=-1)  # [G, k or V]
    whole = cumulative[:, -1:]
    # Rounded up to the whole, a number just below 1 would draw a token that was filtered out.
    target = (uniform.to(cumulative)[:, None] * whole).minimum(whole.nextafter(torch.zeros_like(whole)))
    place = torch.searchsorted(cumulative, target, right=True).clamp_max(scores.shape[-1] - 1)  # [G, 1]
    return (place if ids is None else ids.gather(1, place)).squeeze(1)

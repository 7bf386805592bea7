"""Samples one token per row in one call: settings of each row's own, one seeded uniform number per row.

Probabilities are integers, exp((x - max) / temperature) in units of 2^-40. Their sums are exact in any order
and over any width, so a row gets the same token alone, in any batch, and beside rows with other settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from composer.core.composition import Sampling
from composer.model.runtime.finite import drawable, largest
from composer.model.transfer import to_device

# Below this temperature sampling is greedy, to the resolution of a float32 logit.
GREEDY_BELOW = 1e-6
# The token id of a row whose logits are not finite.
NO_TOKEN = -1
# The weight of a row's likeliest token. The sum of eight million such weights is below 2^63.
UNIT = 2.0**40
# Uniform numbers that are drawn, and copied to the device, at once for each row.
AHEAD = 64
# Blocks of a row's scores for each token that a CPU looks for.
BLOCKS = 4
# Without top-k, a CPU looks for the tokens of top-p among so many of the likeliest first, and then among so
# many times more.
FIRST, MORE = 512, 16


class RowSampler:
    """One row's sampling settings and its own random numbers, which depend on the seed alone."""

    def __init__(self, sampling: Sampling):
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)
        self._drawn, self._used = torch.empty(0), 0

    def skip(self, count: int) -> None:
        """Pass over the numbers of so many tokens."""
        self._used += count

    def ahead(self, count: int) -> torch.Tensor:
        """The next numbers in [0, 1), [count] float32. They stay the next ones until they are skipped."""
        if self._used + count > len(self._drawn):
            more = torch.rand(self._used + count - len(self._drawn), generator=self._generator)
            self._drawn, self._used = torch.cat([self._drawn, more])[self._used :], 0
        return self._drawn[self._used : self._used + count]


class BatchSampler:
    """Samples a token for each of some rows. Good as long as these are the rows, in this order.

    histories: each row's ids so far, the prompt included, as they are at the first call.
    """

    def __init__(
        self, samplers: Sequence[RowSampler], histories: Sequence[Sequence[int]], device: torch.device
    ):
        self._samplers, self._histories, self._device = samplers, histories, device
        self._parts: list[_Part] | None = None
        self._penalty: torch.Tensor | None = None
        self._uniform, self._used = torch.empty(0), AHEAD

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """[B, V] logits -> [B] int64 ids on their device; NO_TOKEN for a row whose logits are not finite.

        On a GPU nothing waits: shapes follow from the rows' settings alone.
        """
        if self._parts is None:
            self._parts = self._divided(logits.shape[1])
            self._look_back()
        possible, scores, uniform = drawable(logits), logits.float(), self._next()
        if self._penalty is not None:
            scores = _penalised(scores, self._past, self._penalty)
        if len(self._parts) == 1:
            tokens = self._parts[0](scores, uniform)
        else:
            tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
            for part in self._parts:
                tokens[part.rows] = part(scores[part.rows], uniform[part.rows])
        if self._penalty is not None:
            # What is chosen from numbers that are not finite depends on how they are looked at.
            self._past = _noted(self._past, self._length, tokens.where(possible, self._past[:, 0]))
            self._length += 1
        return tokens.where(possible, NO_TOKEN)

    def _divided(self, vocabulary: int) -> list[_Part]:
        """The rows by the work that they need."""
        rows: dict[Draw, list[int]] = {}
        for row, sampler in enumerate(self._samplers):
            rows.setdefault(_draw_of(sampler.sampling, vocabulary), []).append(row)
        own = [sampler.sampling for sampler in self._samplers]
        return [_Part.of(draw, of, [own[row] for row in of], self._device) for draw, of in rows.items()]

    def _look_back(self) -> None:
        """Prepare the repetition penalty: what each row has in its text."""
        penalties = [sampler.sampling.repetition_penalty for sampler in self._samplers]
        if all(penalty == 1 for penalty in penalties):
            return
        self._penalty = to_device(
            torch.tensor(penalties, dtype=torch.float32)[:, None], self._device
        )  # [B, 1]
        self._length = max(map(len, self._histories))
        # A shorter text, and the room for what comes, is filled with a token that the text has anyway.
        past = [[*ids, *[ids[0]] * (self._length - len(ids))] for ids in self._histories]
        self._past = to_device(torch.tensor(past), self._device)  # [B, at least length]

    def _next(self) -> torch.Tensor:
        """The rows' next uniform numbers, [B] float64."""
        if self._used == AHEAD:
            ahead = torch.stack([sampler.ahead(AHEAD) for sampler in self._samplers], dim=1)
            self._uniform, self._used = to_device(ahead.double(), self._device), 0  # [AHEAD, B]
        for sampler in self._samplers:
            sampler.skip(1)
        self._used += 1
        return self._uniform[self._used - 1]


def sample_next_tokens(
    samplers: Sequence[RowSampler], histories: Sequence[Sequence[int]], logits: torch.Tensor
) -> list[int]:
    """One token id per row, once; see BatchSampler."""
    return BatchSampler(samplers, histories, logits.device)(logits).tolist()


def _penalised(scores: torch.Tensor, past: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """transformers' RepetitionPenaltyLogitsProcessor on [B, V], with pasts [B, T] and penalties [B, 1].

    What a penalty below 1 makes infinite is the largest float32 instead.
    """
    own = scores.gather(1, past)
    own = torch.where(own < 0, own * penalty, own / penalty).clamp_max_(torch.finfo(scores.dtype).max)
    return scores.scatter(1, past, own)


def _noted(past: torch.Tensor, place: int, tokens: torch.Tensor) -> torch.Tensor:
    """The past, [B, T], with new tokens in a column; columns for more are added where there is none."""
    if place == past.shape[1]:
        past = torch.cat([past, past[:, :1].expand(-1, AHEAD)], dim=1)
    past[:, place] = tokens
    return past


@dataclass(frozen=True)
class _Part:
    """Rows that need the same work, [G], and their settings, [G, 1] each."""

    draw: Draw
    rows: torch.Tensor
    temperature: torch.Tensor  # float32
    # 1 - top_p, float64.
    left_out: torch.Tensor
    # Without a limit more than the vocabulary.
    top_k: torch.Tensor
    most: int

    @classmethod
    def of(cls, draw: Draw, rows: list[int], own: Sequence[Sampling], device: torch.device) -> _Part:
        def column(values: list, dtype: torch.dtype) -> torch.Tensor:
            return to_device(torch.tensor(values, dtype=dtype)[:, None], device)

        return cls(
            draw,
            to_device(torch.tensor(rows), device),
            column([each.temperature for each in own], torch.float32),
            column([1 - each.top_p for each in own], torch.float64),
            column([each.top_k for each in own], torch.int64),
            max(each.top_k for each in own),
        )

    def __call__(self, scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """[G, V] float32 and [G] -> [G] ids."""
        return self.draw(self, scores, uniform[:, None])

    def weights(self, scores: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        """[G, n] scores and the rows' largest, [G, 1] -> [G, n] int64, in proportion to probabilities."""
        return (scores - top).div_(self.temperature).exp_().mul_(UNIT).long()

    def enough(self, whole: torch.Tensor) -> torch.Tensor:
        """The weight from which on top-p leaves tokens out, of all that there is, [G, 1] int64."""
        return whole - (self.left_out * whole).long()


Draw = Callable[[_Part, torch.Tensor, torch.Tensor], torch.Tensor]


def _draw_of(sampling: Sampling, vocabulary: int) -> Draw:
    if sampling.temperature < GREEDY_BELOW:
        return _greedy
    if 0 < sampling.top_k < vocabulary:
        return _of_top_k
    return _of_top_p if sampling.top_p < 1 else _of_all


def _greedy(_: _Part, scores: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(axis=-1))
    return scores.argmax(dim=-1)


def _of_all(part: _Part, scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    weights = part.weights(scores, largest(scores)[:, None])
    sums = weights.cumsum_(dim=-1)  # [G, V]
    return _drawn(sums, sums[:, -1:], uniform).squeeze(1)


def _of_top_k(part: _Part, scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Exactly top_k tokens stay, and of those the ones that top-p keeps. The draw begins at the likeliest."""
    ids = _likeliest(scores, part.most)  # [G, most]
    likeliest = scores.gather(1, ids)
    sums = part.weights(likeliest, likeliest[:, :1]).cumsum_(dim=-1)
    enough = part.enough(sums.gather(1, part.top_k - 1))
    return ids.gather(1, _drawn(sums, enough, uniform)).squeeze(1)


def _of_top_p(part: _Part, scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """A CPU looks at a few tokens first and at more where these do not reach top-p; a GPU sorts them all."""
    weights = part.weights(scores, largest(scores)[:, None])  # [G, V]
    enough = part.enough(weights.sum(dim=-1, keepdim=True))  # [G, 1]
    everyone = scores.shape[1]
    count = min(FIRST, everyone) if scores.device.type == "cpu" else everyone
    while True:
        ids = _likeliest(scores, count)  # [G, count]
        sums = weights.gather(1, ids).cumsum_(dim=-1)
        if count == everyone or bool((sums[:, -1:] >= enough).all()):
            return ids.gather(1, _drawn(sums, enough, uniform)).squeeze(1)
        count = min(MORE * count, everyone)


def _likeliest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """[G, V] float32 -> ids of the `count` largest of each row, [G, count]; the lower of equal ones first."""
    if scores.device.type == "cpu" and BLOCKS * count <= scores.shape[1]:
        return torch.from_numpy(np.stack([_likeliest_by_blocks(row, count) for row in scores.numpy()]))
    return _keys(scores).topk(count, dim=-1).indices


def _likeliest_by_blocks(scores: np.ndarray, count: int) -> np.ndarray:
    """The same of one row, [V] -> [count]. So many are no less than the smallest of the `count` largest among
    the blocks' largest; only they are sorted."""
    blocks = BLOCKS * count
    width = len(scores) // blocks
    tops = scores[: blocks * width].reshape(blocks, width).max(axis=1)  # [blocks]
    ids = np.flatnonzero(scores >= np.partition(tops, -count)[-count])
    if len(ids) < count:  # not finite
        return np.arange(count)
    bits = scores[ids].view(np.int32)
    ordered = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # as in _keys
    return ids[np.argsort(~ordered, kind="stable")[:count]]


def _keys(scores: torch.Tensor) -> torch.Tensor:
    """[G, V] float32 -> [G, V] int64 in the order of the scores, and of equal ones the first id is largest.

    No two are equal, so that however many of them are selected, by whichever algorithm, they are the same.
    """
    bits = scores.view(torch.int32)
    # A negative float's bits grow with its size.
    ordered = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)
    back = torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
    return ordered.long().bitwise_left_shift_(32).bitwise_or_(back)


def _drawn(sums: torch.Tensor, enough: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Inverse-CDF draw: the place of each row's token, [G, 1].

    sums: [G, n] running sums of weights. Tokens after the sum has reached `enough`, [G, 1], are left out.
    """
    last = sums.shape[1] - 1
    kept = sums.gather(1, torch.searchsorted(sums, enough.contiguous()).clamp_max_(last))  # [G, 1]
    # Below `kept` after rounding too, since that is at least UNIT and a number has 24 bits.
    target = (uniform * kept).long()
    return torch.searchsorted(sums, target, right=True).clamp_max_(last)

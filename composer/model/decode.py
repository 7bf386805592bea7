"""The decode loop: one prefill, then a token per row and pass, over a KV cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from composer.adapters.bank import Bank
from composer.model.inject import GateCall, GatedModel, Meter
from composer.model.sample import Sampler
from composer.spec import Sampling


@dataclass(frozen=True)
class Drawn:
    """One pass: a token for every row still running.

    tokens: row -> token id. finish: row -> why it ended with this token, None while it runs. meter: the
    pass's readings, all rows. seconds: since the loop began.
    """

    tokens: dict[int, int]
    finish: dict[int, str | None]
    meter: Meter
    seconds: float


def decode(
    model: GatedModel,
    bank: Bank,
    prompts: Sequence[Sequence[int]],
    gates: torch.Tensor,
    samplings: Sequence[Sampling],
    ends: frozenset[int],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Drawn]:
    """Continue B prompts (token ids), row b under gates[b] ([B, L, N]) and samplings[b].

    Rows end at their own length, end token or time limit; the loop ends when all have, at once when
    `stop()` is true, or when the caller closes the iterator.
    """
    began = time.monotonic()
    device = gates.device
    ids, mask = _left_pad(prompts, device)  # [B, T]
    positions = (mask.cumsum(dim=-1) - 1).clamp_min(0)  # [B, T]
    cache = DynamicCache(config=model.model.config)
    sampler = Sampler(samplings)
    history = [torch.tensor(prompt, device=device) for prompt in prompts]
    running = set(range(len(prompts)))
    call = GateCall(bank, gates)
    count = 0
    while running and not stop():
        call.meter = Meter()
        logits = model(
            call,
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # [B, V]
        tokens = sampler.draw(logits, history)
        count += 1
        seconds = time.monotonic() - began
        finish = {row: _finish(tokens[row], count, seconds, samplings[row], ends) for row in running}
        yield Drawn({row: tokens[row] for row in sorted(running)}, finish, call.meter, seconds)
        running -= {row for row, why in finish.items() if why}
        ids = torch.tensor(tokens, device=device)[:, None]  # [B, 1]
        history = [torch.cat([past, new]) for past, new in zip(history, ids, strict=True)]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=-1)
        positions = positions[:, -1:] + 1


def _finish(token: int, count: int, seconds: float, sampling: Sampling, ends: frozenset[int]) -> str | None:
    if token in ends:
        return "end"
    if count >= sampling.max_new_tokens:
        return "length"
    return "time" if seconds >= sampling.time_limit else None


def _left_pad(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of unlike length, right-aligned so that the last column is every row's newest token."""
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)  # [B, T]

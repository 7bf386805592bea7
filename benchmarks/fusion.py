"""KL fusion: how long the fusion weights of a prompt take, beside prefills of the same prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import torch

from benchmarks import peft_baseline
from benchmarks.fixture import BenchFixture
from benchmarks.peft_baseline import Model
from benchmarks.plan import TEXT, Plan, prompt_of
from benchmarks.timing import Arm, Measurement, interleave, timed
from composer.engine.engine import Engine


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """Seconds per call: "fusion N", "rows N+1" (base prefill of as many rows; rows 1 is one), "peft N+1"."""
    prompt = prompt_of(fixture.count_tokens, plan.prompt)
    ids = fixture.encode(prompt)
    models = peft_baseline.separate(fixture.reference_base, fixture.adapters[: max(plan.fusions)])
    arms: dict[str, Arm] = {}
    for rows in (1, *(n + 1 for n in plan.fusions)):
        arms[f"rows {rows}"] = prefill(models[:1], torch.tensor([ids] * rows, device=fixture.device))
    for n in plan.fusions:
        arms[f"fusion {n}"] = fusion(fixture.ours(n), fixture.count_tokens, plan.prompt)
        arms[f"peft {n + 1}"] = prefill(models[: n + 1], torch.tensor([ids], device=fixture.device))
    return {"prompt_tokens": len(ids), "fusions": list(plan.fusions), "arms": interleave(arms, plan.rounds)}


def fusion(engine: Engine, count_tokens: Callable[[str], int], tokens: int) -> Arm:
    """The fusion weights of a prompt of so many tokens, another one each time: an engine remembers them."""
    prompts = new_prompts(count_tokens, tokens)

    def work() -> Measurement:
        prompt = next(prompts)
        return timed(lambda: engine.fusion(prompt), engine.base.device)

    return work


def new_prompts(count_tokens: Callable[[str], int], tokens: int) -> Iterator[str]:
    """Prompts of equally many tokens that begin with unlike numbers."""
    for number in count(100):
        yield prompt_of(count_tokens, tokens, text=f"{number} {TEXT}")


def prefill(models: list[Model], inputs: torch.Tensor) -> Arm:
    """One pass of each model over [rows, T] tokens, unembedding the last position only."""

    @torch.inference_mode()
    def work() -> None:
        for model in models:
            model(input_ids=inputs, use_cache=False, logits_to_keep=1)

    return lambda: timed(work, inputs.device)

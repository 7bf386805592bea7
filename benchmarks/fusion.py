"""KL fusion: how long the fusion weights of a prompt take, beside prefills of the same prompt."""

from __future__ import annotations

import torch

from benchmarks import peft_side
from benchmarks.peft_side import Model
from benchmarks.plan import Plan, prompt_of
from benchmarks.stand import Stand
from benchmarks.timing import Arm, interleave, timed


def measure(stand: Stand, plan: Plan) -> dict:
    """Seconds per call: "fusion N", "rows N+1" (base prefill of as many rows; rows 1 is one), "peft N+1"."""
    prompt = prompt_of(stand.count_tokens, plan.prompt)
    ids = stand.encode(prompt)
    models = peft_side.separate(stand, max(plan.fusions))
    arms: dict[str, Arm] = {}
    for rows in (1, *(n + 1 for n in plan.fusions)):
        arms[f"rows {rows}"] = _prefill(models[:1], torch.tensor([ids] * rows, device=stand.device))
    for n in plan.fusions:
        arms[f"fusion {n}"] = _fusion(stand, n, prompt)
        arms[f"peft {n + 1}"] = _prefill(models[: n + 1], torch.tensor([ids], device=stand.device))
    return {"prompt_tokens": len(ids), "fusions": list(plan.fusions), "arms": interleave(arms, plan.rounds)}


def _fusion(stand: Stand, count: int, prompt: str) -> Arm:
    engine = stand.ours(count, compiled=False)  # nothing is decoded
    return lambda: timed(lambda: engine.fusion(prompt), stand.device)


def _prefill(models: list[Model], inputs: torch.Tensor) -> Arm:
    """One pass of each model over [rows, T] tokens, unembedding the last position only."""

    @torch.inference_mode()
    def work() -> None:
        for model in models:
            model(input_ids=inputs, use_cache=False, logits_to_keep=1)

    return lambda: timed(work, inputs.device)

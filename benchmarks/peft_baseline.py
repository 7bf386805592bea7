"""The other side: transformers' generate(), PEFT with several adapters, and one model per adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from benchmarks.fixture import clone_modules
from benchmarks.plan import expect
from benchmarks.timing import Arm, Measurement, Moment, between, now
from composer.model.loading import Base

Model = PreTrainedModel | PeftModel


def plain(base: Base) -> PreTrainedModel:
    """The bare base, in modules of its own over the same weights."""
    return clone_modules(base).model


def peft_model(base: Base, adapters: Sequence[Path]) -> PeftModel:
    """PEFT with these adapters loaded; `activate` says which compute."""
    first, *rest = adapters
    model = PeftModel.from_pretrained(plain(base), first, adapter_name=first.name)
    for folder in rest:
        model.load_adapter(folder, adapter_name=folder.name)
    return model.eval()


def activate(model: PeftModel, names: Sequence[str]) -> None:
    model.base_model.set_adapter(list(names))


def active(model: PeftModel, names: Sequence[str], ids: Sequence[int], tokens: int) -> Arm:
    """The arm of `generate` with these of the loaded adapters."""

    def run() -> Measurement:
        activate(model, names)
        return generate(model, ids, tokens)

    return run


def concatenate(model: PeftModel, names: Sequence[str], into: str) -> str:
    """PEFT's own merge of several adapters into one of their summed rank."""
    model.add_weighted_adapter(list(names), [1.0] * len(names), adapter_name=into, combination_type="cat")
    return into


def separate(base: Base, adapters: Sequence[Path]) -> list[Model]:
    """The base and a model for each adapter, all over the same weights.

    A model per adapter spares the switching between adapters, which is slow: the ensemble at its best.
    """
    models: list[Model] = [plain(base)]
    for folder in adapters:
        models.append(PeftModel.from_pretrained(plain(base), folder, adapter_name=folder.name).eval())
    return models


class _Clock(StoppingCriteria):
    """Notes when the first token is there and when the newest is; stops nothing."""

    def __init__(self, device: torch.device):
        self._device = device
        self.first: Moment | None = None

    def __call__(self, input_ids: torch.Tensor, scores, **_) -> torch.Tensor:
        if self.first is None:
            self.first = now(self._device)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def generate(model: Model, ids: Sequence[int], tokens: int) -> Measurement:
    """Greedy `generate()` of `tokens` tokens; the reading is per token after the first."""
    inputs = torch.tensor([ids], device=model.device)
    clock = _Clock(inputs.device)
    out = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=False,
        max_new_tokens=tokens,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    ended = now(inputs.device)
    expect(out.shape[1] - len(ids), tokens)
    return between(clock.first, ended, tokens - 1)


@torch.inference_mode()
def ensemble(models: Sequence[Model], ids: Sequence[int], tokens: int) -> Measurement:
    """One token from N+1 passes, logits summed as l_0 + sum_i (l_i - l_0); per token after the first."""
    device = models[0].device
    caches = [DynamicCache(config=models[0].config) for _ in models]
    began, inputs = None, torch.tensor([ids], device=device)  # [1, T]
    for _ in range(tokens):
        logits = [
            model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            for model, cache in zip(models, caches, strict=True)
        ]  # N + 1 of [V]
        combined = sum(logits[1:]) - (len(logits) - 2) * logits[0]  # [V]
        inputs = combined.argmax()[None, None]  # [1, 1]
        began = began or now(device)
    return between(began, now(device), tokens - 1)

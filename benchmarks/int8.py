"""What weight-only int8 changes: the next token's logits along a fixed text, decoded token by token."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.fixture import BenchFixture, clone_modules
from benchmarks.plan import TEXT, greedy
from composer.model.gated_model import GatedModel
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.batch import Batch, BatchRow
from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.runner import ModelRunner
from composer.model.runtime.select import select_runner

COUNTS = (0, 3)
POSITIONS = 80


def change(fixture: BenchFixture) -> dict:
    """Number of adapters -> how far int8's logits are from the base dtype's.

    max, mean: of the absolute differences. kl: nats, mean over the positions. agree: share of positions
    where both have the same first choice.
    """
    return {
        str(count): _compared(*(_forced(fixture, count, w) for w in ("same", "int8"))) for count in COUNTS
    }


def _compared(same: torch.Tensor, int8: torch.Tensor) -> dict:
    """Both [T, V]."""
    apart = (int8 - same).abs()
    p, q = same.log_softmax(dim=-1), int8.log_softmax(dim=-1)
    return {
        "max": float(apart.max()),
        "mean": float(apart.mean()),
        "kl": float((p.exp() * (p - q)).sum(dim=-1).mean()),
        "agree": float((same.argmax(dim=-1) == int8.argmax(dim=-1)).float().mean()),
        "positions": len(same),
    }


def _forced(fixture: BenchFixture, count: int, weights: str) -> torch.Tensor:
    """[T, V] float32 logits after each token of the fixed text but the first, all adapters at weight 1."""
    ids = fixture.encode(TEXT)[: POSITIONS + 1]
    model = GatedModel(clone_modules(fixture.base).model)
    layout = model.layout(fixture.ours(count).snapshot.bank)
    runner = select_runner(model, weights)
    if isinstance(runner, NativeRunner):
        runner.compile()
    recorded = _Listening(runner)
    batch = Batch(recorded, layout, ends=(), slots=1, max_seq_len=len(ids))
    row = BatchRow(
        "forced", ids[:1], LogitMixture.one(np.ones((model.layers, count), np.float32)), greedy(len(ids))
    )
    batch.add([row], layout)
    for token in ids[1:]:
        row.ids[-1] = token  # whatever was drawn, the text goes on as it stands
        batch.step()
    return torch.cat(recorded.heard).float()


class _Listening:
    """A pass that keeps its logits."""

    def __init__(self, inner: ModelRunner):
        self._inner, self.prepare, self.read = inner, inner.prepare, inner.read
        self.heard: list[torch.Tensor] = []

    def __call__(self, *inputs):
        logits, reading = self._inner(*inputs)
        self.heard.append(logits)  # [1, V]
        return logits, reading

"""A training run that is killed at one of its steps."""

from __future__ import annotations

import pytest
from transformers import Trainer


def watch_steps(monkeypatch: pytest.MonkeyPatch, kill_at: int | None = None) -> list[int]:
    """The steps that trainings begin from now on, in order; the first to reach `kill_at` is killed there."""
    step, begun = Trainer.training_step, []

    def watched(self, *args, **kwargs):
        begun.append(self.state.global_step)
        if begun[-1] == kill_at and begun.count(kill_at) == 1:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", watched)
    return begun

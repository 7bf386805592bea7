"""A training run that is killed at one of its steps."""

from __future__ import annotations

import pytest
from transformers import Trainer


def watch_steps(monkeypatch: pytest.MonkeyPatch, kill_at: int | None = None) -> list[int]:
    """The steps that trainings begin from now on, in order; the first to reach `kill_at` is killed there."""
    step, begun, alive = Trainer.training_step, [], kill_at is None

    def watched(self, *args, **kwargs):
        nonlocal alive
        begun.append(self.state.global_step)
        if not alive and self.state.global_step == kill_at:
            alive = True
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", watched)
    return begun

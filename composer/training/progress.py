"""Steps, loss and time left of a training run on stderr: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from tqdm import tqdm
from transformers import TrainerCallback

# Seconds between two lines where there is no terminal.
EVERY = 10.0


class TrainingProgress(TrainerCallback):
    """Tells how far the Trainer is.

    clock: seconds from any start. stream: None is stderr.
    """

    def __init__(self, name: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self._name, self._stream, self._clock = name, stream or sys.stderr, clock
        self._bar: tqdm | None = None
        self._loss = ""
        self._first, self._began, self._told = 0, 0.0, 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._first, self._began = state.global_step, self._clock()
        self._told = self._began
        if state.global_step:
            self._line(f"goes on from step {state.global_step} of {state.max_steps}")
        if self._stream.isatty():
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=self._name,
                unit="step",
                file=self._stream,
                dynamic_ncols=True,
            )

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and "loss" in logs:
            self._loss = f"loss {float(logs['loss']):.2f}"
            if self._bar is not None:
                self._bar.set_postfix_str(self._loss)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)
            return
        now = self._clock()
        if now - self._told < EVERY and state.global_step < state.max_steps:
            return
        self._told = now
        per_step = (now - self._began) / max(state.global_step - self._first, 1)
        left = tqdm.format_interval(per_step * (state.max_steps - state.global_step))
        parts = [f"step {state.global_step} of {state.max_steps}", self._loss, f"{left} left"]
        self._line(", ".join(filter(None, parts)))

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line(self, text: str) -> None:
        # That nobody can be told is no reason to end hours of work.
        with suppress(OSError, ValueError):
            print(f"{self._name}: {text}", file=self._stream, flush=True)

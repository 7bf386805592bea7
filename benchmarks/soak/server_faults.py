"""Faults inside the served process: each is armed, and strikes once, where the real one would.

The product has no line for this: the soak's launcher puts these around its methods before it starts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any

import torch

from composer.engine.scheduler import Scheduler
from composer.engine.session import DecodeSession
from composer.model.runtime.sampling import BatchSampler
from composer.model.tokens import Continuation

ROW, NOT_FINITE, MODEL = "a row raises", "logits are not finite", "the model fails"
THREAD, MEMORY, CLOCK = "the decoding thread dies", "out of memory", "the clock jumps"
NAMES = (ROW, NOT_FINITE, MODEL, THREAD, MEMORY, CLOCK)
# Seconds by which the clock jumps, to and fro.
JUMP = 7200.0


class InjectedFault(Exception):
    """Thrown by the soak. By its name its traceback is told from a real one in the log."""


class InjectedEnd(BaseException):
    """As InjectedFault, past everything that catches an Exception."""


class ServerFaults:
    """Armed faults, and how often each has struck. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._armed: Counter[str] = Counter()
        self.fired: Counter[str] = Counter()
        self._skew = 0.0

    def arm(self, name: str) -> None:
        """It strikes at the next occasion."""
        if name not in NAMES:
            raise ValueError(f"no fault is called {name}")
        with self._lock:
            if name == CLOCK:
                self._skew = JUMP if self._skew <= 0 else -JUMP
                self.fired[CLOCK] += 1
            else:
                self._armed[name] += 1

    def strikes(self, name: str) -> bool:
        """Whether it was armed; then it no longer is."""
        with self._lock:
            if self._armed[name] == 0:
                return False
            self._armed[name] -= 1
            self.fired[name] += 1
            return True

    def install(self) -> None:
        """Put the faults in their places."""
        _around(Continuation, "push", self._row)
        _around(BatchSampler, "__call__", self._not_finite)
        _around(DecodeSession, "step", self._step)
        _around(Scheduler, "_next", self._thread)
        clock = time.time
        time.time = lambda: clock() + self._skew

    def _row(self, push: Callable, text: Continuation, *given: Any, **named: Any) -> Any:
        if self.strikes(ROW):
            raise InjectedFault(ROW)
        return push(text, *given, **named)

    def _not_finite(self, draw: Callable, sampler: BatchSampler, logits: torch.Tensor) -> Any:
        if self.strikes(NOT_FINITE):
            logits = logits.clone()
            logits[-1] = float("nan")
        return draw(sampler, logits)

    def _step(self, step: Callable, session: DecodeSession) -> Any:
        if self.strikes(MODEL):
            raise InjectedFault(MODEL)
        # With one row there is nobody who could go on in its place.
        if len(session.keys) > 1 and self.strikes(MEMORY):
            raise torch.OutOfMemoryError(f"InjectedFault: {MEMORY}")
        return step(session)

    def _thread(self, following: Callable, scheduler: Scheduler) -> Any:
        joining = following(scheduler)
        if self.strikes(THREAD):
            raise InjectedEnd(THREAD)
        return joining


def _around(kind: type, name: str, work: Callable[..., Any]) -> None:
    method = getattr(kind, name)

    @wraps(method)
    def changed(self: Any, *given: Any, **named: Any) -> Any:
        return work(method, self, *given, **named)

    setattr(kind, name, changed)

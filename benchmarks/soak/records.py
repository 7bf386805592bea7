"""What visitors asked for and what they were given, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

# How an answer ended: as the model had it, by the visitor's Stop, because the visitor went away, or with a
# sentence instead of the rest.
WHOLE, STOPPED, LEFT, SENTENCE = "whole", "stopped", "left", "sentence"


@dataclass(frozen=True)
class Asked:
    """One text that a visitor asked for. composition, sampling: as Composition and Sampling take them."""

    # Of the catalog.
    base: str
    prompt: str
    composition: Mapping[str, Any]
    sampling: Mapping[str, Any]
    # The adapters of the Hub in it, which are the visitor's own.
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a visitor got. Times are seconds of the monotonic clock."""

    visitor: str
    action: str
    asked: Asked
    text: str
    ended: str
    at: float
    done: float
    # When the first words came; None where none did, or where nobody looked.
    first: float | None = None
    # What the visitor read instead of the rest.
    sentence: str = ""
    tokens: tuple[int, ...] | None = None
    # The adapters that the answer names, and how much each did: [T, L, N].
    adapters: tuple[str, ...] | None = None
    contribution: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Sweep:
    """The table of a dose, of which no text is shown. span: adapter -> lowest, highest, how many."""

    visitor: str
    asked: Asked
    span: Mapping[str, tuple[float, float, int]]
    rows: tuple[Mapping[str, float], ...]
    at: float
    done: float
    sentence: str = ""


@dataclass(frozen=True)
class Wrong:
    """Something that should not have been: whose, where, and what, in a sentence."""

    visitor: str
    action: str
    what: str
    # Whether it is somebody else's: text, weights or adapters.
    leak: bool = False


class Recorder:
    """Takes in what many threads have to tell."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.answers: list[Answer] = []
        self.sweeps: list[Sweep] = []
        # What a visitor saw that needs no comparison to be wrong: script errors, somebody else's adapter.
        self.wrong: list[Wrong] = []
        # How often each action was done.
        self.actions: dict[str, int] = {}

    def answer(self, answer: Answer) -> None:
        with self._lock:
            self.answers.append(answer)

    def sweep(self, sweep: Sweep) -> None:
        with self._lock:
            self.sweeps.append(sweep)

    def report(self, visitor: str, action: str, what: str, leak: bool = False) -> None:
        with self._lock:
            self.wrong.append(Wrong(visitor, action, what, leak))

    def count(self, action: str) -> None:
        with self._lock:
            self.actions[action] = self.actions.get(action, 0) + 1

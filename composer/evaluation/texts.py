"""The texts that judges and metrics read, and the tasks that they come from."""

from __future__ import annotations

from dataclasses import dataclass

BASE = "base"


@dataclass(frozen=True)
class Task:
    """One text to make."""

    subject: str  # an adapter's name, or BASE
    prompt: str
    seed: int


@dataclass(frozen=True)
class Text:
    """One finished text of a subject."""

    key: str  # changes with anything that the text depends on
    subject: str
    prompt: str
    seed: int
    continuation: str
    perplexity: float | None  # of the continuation, under the base; None for an empty one

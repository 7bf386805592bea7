"""A judge: a small text classifier that says which label a text has, and how often it is right itself.

Binary word and character n-grams, hashed into a fixed number of columns, each kind at length 1; then one
linear score per label. No vocabulary, so a judge is nothing but an array. It is no authority: its
accuracy on rows it never saw is printed beside its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from composer.core.errors import ComposerError

# "Don't" is one word; "!" and "?" are words because reviews mean something by them.
TOKEN = r"\b\w[\w']*\b|[!?]"


@dataclass(frozen=True)
class HeldOut:
    """A judge's accuracy, 0 to 1, on one source's held-out rows."""

    file: str
    rows: int
    accuracy: float


def accuracy(scores: Sequence[HeldOut]) -> float:
    """The share of all held-out rows that are right."""
    return sum(score.accuracy * score.rows for score in scores) / sum(score.rows for score in scores)


class Judge(Protocol):
    """Whatever gives each text a label: a judge of this project, or a classifier from the Hub.

    scores: what it got right of held-out rows; empty where that was not measured.
    """

    name: str
    attribute: str
    labels: tuple[str, ...]
    scores: tuple[HeldOut, ...]

    def __call__(self, texts: Sequence[str]) -> list[str]: ...


@dataclass(frozen=True)
class Grams:
    """One kind of n-gram."""

    # "word", or "char_wb" (characters inside words).
    analyzer: str
    shortest: int
    longest: int
    columns: int


@dataclass(frozen=True, eq=False)
class NgramJudge:
    """A linear judge over hashed n-grams."""

    attribute: str
    # Sorted.
    labels: tuple[str, ...]
    grams: tuple[Grams, ...]
    # [K, D] float16. D: all kinds' columns. K: a score per label, or one for two labels, positive for the
    # second.
    weights: np.ndarray
    bias: np.ndarray  # [K] float32
    # The files it was trained on.
    sources: tuple[str, ...]
    trained_on: int
    scores: tuple[HeldOut, ...]

    @property
    def name(self) -> str:
        return f"{self.attribute} (word counts)"

    @property
    def accuracy(self) -> float:
        """Share of all held-out rows that it gets right."""
        return accuracy(self.scores)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The label of each text. Raises ComposerError where scikit-learn is missing."""
        return predict(self.labels, self.weights, self.bias, features(texts, self.grams)) if texts else []

    def shares(self, text: str) -> dict[str, float]:
        """Each label's probability as the judge's logistic regression gives it; they sum to 1.

        Raises as `__call__`.
        """
        scores = (features([text], self.grams) @ self._columns + self.bias)[0]  # [K]
        logits = scores if len(self.labels) > 2 else np.array([0, scores[0]])
        weights = np.exp(logits - logits.max())
        return dict(zip(self.labels, (weights / weights.sum()).tolist(), strict=True))

    @cached_property
    def _columns(self) -> np.ndarray:
        """The weights as they are multiplied, [D, K] float32; converting takes longer than using them."""
        return np.ascontiguousarray(self.weights.astype(np.float32).T)

    def __str__(self) -> str:
        parts = ", ".join(f"{s.file} {s.accuracy:.1%} of {s.rows}" for s in self.scores)
        return f"{self.attribute}: {self.accuracy:.1%} right on rows it never saw ({parts})"


def features(texts: Sequence[str], grams: Sequence[Grams]):
    """Sparse [T, D] float32: which n-grams each text has, each kind of length 1."""
    try:
        from scipy.sparse import hstack
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as fault:
        raise ComposerError("Judging needs scikit-learn; run: pip install scikit-learn") from fault
    kinds = [
        HashingVectorizer(
            analyzer=kind.analyzer,
            ngram_range=(kind.shortest, kind.longest),
            n_features=kind.columns,
            token_pattern=TOKEN if kind.analyzer == "word" else None,
            strip_accents="unicode",
            binary=True,
            alternate_sign=False,
            norm="l2",
            dtype=np.float32,
        ).transform(texts)
        for kind in grams
    ]
    return hstack(kinds, format="csr")


def predict(labels: Sequence[str], weights: np.ndarray, bias: np.ndarray, read) -> list[str]:
    """The label of each row of `read` [T, D]."""
    scores = read @ weights.astype(np.float32).T + bias  # [T, K]
    best = scores.argmax(axis=1) if len(labels) > 2 else (scores[:, 0] > 0).astype(int)  # [T]
    return [labels[place] for place in best]

"""What is measured on finished texts. Pure functions on plain numbers and strings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

WORD = re.compile(r"\w+(?:'\w+)*")


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval, a bootstrap over prompts."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def as_percent(self, decimals: int = 1) -> str:
        """A share between 0 and 1 in words: "66.1% [60.0%, 71.4%]"."""
        value, low, high = (f"{each:.{decimals}%}" for each in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"

    def as_points(self) -> str:
        """A difference of two shares in percentage points: "+3.1 [-0.2, +6.5]"."""
        value, low, high = (f"{100 * each:+.1f}" for each in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def perplexity(log_probs: np.ndarray) -> float | None:
    """exp of the mean negative log-probability (nats) of a text's tokens; None for a text without any."""
    return float(np.exp(-np.mean(log_probs, dtype=np.float64))) if len(log_probs) else None


def median(values: Iterable[float | None]) -> float | None:
    """Median of the values that are not None. A mean would be ruled by the few texts gone off the rails."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None, for shares, which no outlier can rule."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def distinct(texts: Iterable[str], n: int = 2) -> float | None:
    """Share of different word n-grams among all n-grams of all texts (Li et al. 2016, arXiv 1510.03055).

    It falls with the amount of text, so only sets of about equal size can be compared.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(text: str, n: int = 4) -> float | None:
    """Share of one text's word n-grams that have been there before: 1 - different / all.

    seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319), there on tokens; None for a text
    without an n-gram.
    """
    grams = _grams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else None


def unigrams(texts: Iterable[Sequence[int]], vocabulary: int) -> np.ndarray:
    """Log-probability (nats) of every token by its frequency in `texts`, token ids; float64 [V].

    Each count is one higher (Laplace), so that a token of none of the texts is unlikely, not impossible.
    """
    counts = np.ones(vocabulary)  # [V]
    for ids in texts:
        np.add.at(counts, np.asarray(ids, dtype=np.int64), 1)
    return np.log(counts / counts.sum())


def slor(log_prob: float, ids: Sequence[int], unigram: np.ndarray) -> float | None:
    """How much likelier each token is in its context than alone, in nats a token; rare words cost nothing.

    log_prob: mean log-probability (nats) of the text's tokens under a model, -log(perplexity). unigram:
    the same tokens' own, [V]. Syntactic log-odds ratio of Pauls & Klein (ACL 2012), for
    fluency Kann et al. 2018 (arXiv 1809.08731): (log p - sum of log unigram p) / length.
    """
    return float(log_prob - unigram[np.asarray(ids)].mean()) if len(ids) else None


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def bootstrap(groups: Sequence[Sequence[float]], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean, drawing whole groups with replacement.

    groups: one per prompt, with that prompt's scores. Texts that share a prompt are alike, so the prompt,
    not the text, is what is sampled (cluster bootstrap, Davison & Hinkley 1997, section 3.8).
    """
    sums = np.array([sum(group) for group in groups], dtype=np.float64)  # [G]
    sizes = np.array([len(group) for group in groups])  # [G]
    picks = np.random.default_rng(seed).integers(len(groups), size=(draws, len(groups)))  # [D, G]
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)  # [D]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def over_prompts(values: Iterable[tuple[str, float]]) -> Interval | None:
    """The mean of (prompt, value) pairs and its interval; None without any."""
    groups: dict[str, list[float]] = {}
    for prompt, value in values:
        groups.setdefault(prompt, []).append(value)
    every = [value for group in groups.values() for value in group]
    return Interval(sum(every) / len(every), *bootstrap(list(groups.values()))) if every else None

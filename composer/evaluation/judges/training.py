"""Judges are trained on rows that no adapter saw, and tested on rows that they did not see themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from composer.core.errors import ComposerError
from composer.evaluation.judges.ngram_judge import Grams, HeldOut, NgramJudge, features, predict
from composer.training.data import Row, normal, read_file, side
from composer.training.recipes import load_recipes

# Chosen, as the kinds of n-grams were, on a fifth of the training rows, never on the held-out ones.
INVERSE_PENALTY = 10.0
EVERYTHING: Mapping[str, int] = MappingProxyType({})
SMOOTHING = 1.0


@dataclass(frozen=True)
class Source:
    """A file of the data folder."""

    file: str
    # All its rows go to "train" or "test", or are split ("fold").
    part: str


@dataclass(frozen=True)
class Plan:
    """What a judge is made from."""

    attribute: str
    # The adapters' names it decides between.
    labels: tuple[str, ...]
    sources: tuple[Source, ...]
    # How many each kind of n-gram is hashed into. Two bytes each in the judge's file, for every label if
    # there are more than two; fewer columns are more collisions.
    columns: int = 2**18

    @property
    def grams(self) -> tuple[Grams, ...]:
        return (Grams("word", 1, 2, self.columns), Grams("char_wb", 3, 5, self.columns))


# Another judge is one more entry here; `composer judges` and `composer evaluate` know nothing else of it.
PLANS: Mapping[str, Plan] = {
    plan.attribute: plan
    for plan in (
        Plan(
            "sentiment",
            ("negative", "positive"),
            (
                Source("imdb_short/train.jsonl.gz", "train"),
                Source("imdb_short/test.jsonl.gz", "test"),
                Source("sst_cased/dev.jsonl.gz", "train"),
                Source("sst_cased/test.jsonl.gz", "test"),
                Source("yelp_short/test.jsonl.gz", "fold"),
            ),
            columns=2**19,
        ),
        Plan(
            "topic",
            ("business", "sci-tech", "sports", "world"),
            (Source("ag_news/train.jsonl.gz", "fold"),),
            columns=200_000,
        ),
    )
}


def train_judges(data: Path, plans: Iterable[Plan] = tuple(PLANS.values())) -> tuple[NgramJudge, ...]:
    """A judge per plan from the data folder. Raises ComposerError for a missing or broken file."""
    seen = adapters_texts(data)
    return tuple(_train(plan, *held_out(plan, data, seen)) for plan in plans)


def adapters_texts(data: Path) -> frozenset[str]:
    """Every text, normalised, that some bundled recipe may train an adapter on or open a sequence with."""
    corpora = {
        corpus.file: corpus
        for recipe in load_recipes().values()
        for corpus in (*recipe.corpora, *recipe.distractor_prefixes)
    }
    return frozenset(
        normal(row.text)
        for corpus in corpora.values()
        for row in read_file(data, corpus.file)
        if corpus.side in ("all", side(row.text))
    )


def held_out(
    plan: Plan, data: Path, seen: frozenset[str], most: Mapping[str, int] = EVERYTHING
) -> tuple[list[Row], dict[str, list[Row]]]:
    """A plan's training rows and its test rows by file. Raises ComposerError where there are too few.

    most: file -> the most rows of it to train on; which ones depends on nothing but their texts.
    """
    files = {source.file: read_file(data, source.file) for source in plan.sources}
    train, tests = split(plan, files, seen, most)
    if {row.label for row in train} != set(plan.labels) or not all(tests.values()):
        raise ComposerError(
            f"The data folder has too few rows to train the {plan.attribute} judge; use the whole sets."
        )
    return train, tests


def split(
    plan: Plan,
    files: Mapping[str, Sequence[Row]],
    seen: frozenset[str],
    most: Mapping[str, int] = EVERYTHING,
) -> tuple[list[Row], dict[str, list[Row]]]:
    """Training rows, and test rows by file: none that an adapter saw, none in both."""
    train: list[Row] = []
    tests: dict[str, list[Row]] = {source.file: [] for source in plan.sources if source.part != "train"}
    for source in plan.sources:
        own: list[Row] = []
        for text, label in files[source.file]:
            if label not in plan.labels or normal(text) in seen:
                continue
            part = fold(text) if source.part == "fold" else source.part
            (own if part == "train" else tests[source.file]).append(Row(text, label))
        train += some(own, most[source.file]) if source.file in most else own
    tested = {normal(row.text) for rows in tests.values() for row in rows}
    return [row for row in train if normal(row.text) not in tested], tests


def some(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many of the rows; which ones depends on nothing but their texts."""
    return sorted(rows, key=lambda row: hashlib.sha256(row.text.encode()).digest())[:most]


def fold(text: str) -> str:
    """ "test" for a fifth of all texts, else "train"; depends on nothing but the text.

    composer.training.data.side() decides by the digest's first byte; the second is independent of it.
    """
    return "test" if hashlib.sha256(normal(text).encode()).digest()[1] % 5 == 0 else "train"


def measure(
    judge: Callable[[Sequence[str]], Sequence[str]], tests: Mapping[str, Sequence[Row]]
) -> tuple[HeldOut, ...]:
    """How often a judge is right on each file's rows."""
    return tuple(
        HeldOut(file, len(rows), _share(judge([row.text for row in rows]), rows))
        for file, rows in tests.items()
    )


def _share(verdicts: Sequence[str], rows: Sequence[Row]) -> float:
    return sum(said == row.label for said, row in zip(verdicts, rows, strict=True)) / len(rows)


def _train(plan: Plan, train: Sequence[Row], tests: Mapping[str, Sequence[Row]]) -> NgramJudge:
    labels = tuple(sorted(plan.labels))
    read = features([row.text for row in train], plan.grams)  # [T, D]
    said = np.array([row.label for row in train])  # [T]
    fitted = [_fit(read, said == label) for label in (labels if len(labels) > 2 else labels[1:])]
    # Rounded before it is tested, so that what is tested is what is stored.
    weights = np.stack([weight for weight, _ in fitted]).astype(np.float16)  # [K, D]
    bias = np.array([bias for _, bias in fitted], dtype=np.float32)  # [K]

    def verdicts(texts: Sequence[str]) -> list[str]:
        return predict(labels, weights, bias, features(texts, plan.grams))

    files = tuple(source.file for source in plan.sources if source.part != "test")
    return NgramJudge(
        plan.attribute, labels, plan.grams, weights, bias, files, len(train), measure(verdicts, tests)
    )


def _fit(read, is_label: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights [D] and bias of one label against the rest.

    Naive Bayes' log-count ratios scale the columns of a logistic regression (NBSVM: Wang & Manning,
    ACL 2012, there with a hinge loss); the product of both is one weight per column.
    """
    from sklearn.linear_model import LogisticRegression

    inside, outside = (_shares(read[chosen]) for chosen in (is_label, ~is_label))  # [D] each
    ratio = np.log(inside / outside)  # [D]
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit(read.multiply(ratio).tocsr(), is_label)
    return model.coef_[0] * ratio, float(model.intercept_[0])


def _shares(read) -> np.ndarray:
    """How often each column is set, smoothed, as shares of all that are."""
    counts = np.asarray((read != 0).sum(axis=0), dtype=np.float64).ravel() + SMOOTHING  # [D]
    return counts / counts.sum()

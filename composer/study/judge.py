"""Judges: small text classifiers, trained on rows that no adapter saw, that say which label a text has.

A judge is refitted from the data folder whenever it is needed (seconds), so nothing has to be stored and
nothing unpickled. It is no authority: its accuracy on its own held-out rows is printed beside its scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.spec import ComposerError
from composer.training.data import Row, normal, read_file, side
from composer.training.recipes import load_recipes


@dataclass(frozen=True)
class Source:
    """A file of the data folder. part: all its rows go to "train" or "test", or are split ("fold")."""

    file: str
    part: str


@dataclass(frozen=True)
class Plan:
    """What a judge is made from. labels: the adapters' names it decides between."""

    attribute: str
    labels: tuple[str, ...]
    sources: tuple[Source, ...]


PLANS = (
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
    ),
    Plan(
        "topic",
        ("business", "sci-tech", "sports", "world"),
        (Source("ag_news/train.jsonl.gz", "fold"),),
    ),
)


@dataclass(frozen=True)
class HeldOut:
    """A judge's accuracy on one source's held-out rows."""

    file: str
    rows: int
    accuracy: float


class Judge:
    """TF-IDF of words and character n-grams, then logistic regression.

    Same family as the classifiers that published control scores of this kind come from; strong on whole
    texts, blind to word order.
    """

    def __init__(
        self, attribute: str, labels: Sequence[str], train: Sequence[Row], tests: dict[str, list[Row]]
    ):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline, make_union

        words = TfidfVectorizer(
            ngram_range=(1, 2),
            sublinear_tf=True,
            min_df=2,
            strip_accents="unicode",
            token_pattern=r"\b\w[\w']*\b",
        )
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=3)
        self._model = make_pipeline(
            make_union(words, characters), LogisticRegression(C=4, max_iter=1000, random_state=0)
        )
        self._model.fit([text for text, _ in train], [label for _, label in train])
        self.attribute, self.labels, self.trained_on = attribute, tuple(sorted(labels)), len(train)
        self.scores = tuple(
            HeldOut(
                file, len(rows), float(self._model.score([t for t, _ in rows], [label for _, label in rows]))
            )
            for file, rows in tests.items()
        )

    @property
    def accuracy(self) -> float:
        """Share of all held-out rows that it gets right."""
        return sum(s.accuracy * s.rows for s in self.scores) / sum(s.rows for s in self.scores)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The label of each text."""
        return [str(label) for label in self._model.predict(list(texts))]

    def __str__(self) -> str:
        parts = ", ".join(f"{s.file} {s.accuracy:.1%} of {s.rows}" for s in self.scores)
        return f"{self.attribute}: {self.accuracy:.1%} right on rows it never saw ({parts})"


def train_judges(data: Path, plans: Iterable[Plan] = PLANS) -> tuple[Judge, ...]:
    """A judge per plan from the data folder. Raises ComposerError for a missing or broken file."""
    seen = adapters_texts(data)
    return tuple(_train(plan, data, seen) for plan in plans)


def adapters_texts(data: Path) -> frozenset[str]:
    """Every text, normalised, that some bundled recipe may train an adapter on or open a sequence with."""
    corpora = {
        corpus.file: corpus
        for recipe in load_recipes().values()
        for corpus in (*recipe.corpora, *recipe.openers)
    }
    return frozenset(
        normal(row.text)
        for corpus in corpora.values()
        for row in read_file(data, corpus.file)
        if corpus.side in ("all", side(row.text))
    )


def _train(plan: Plan, data: Path, seen: frozenset[str]) -> Judge:
    train, tests = split(plan, {source.file: read_file(data, source.file) for source in plan.sources}, seen)
    if {row.label for row in train} != set(plan.labels) or not all(tests.values()):
        raise ComposerError(
            f"The data folder has too few rows to train the {plan.attribute} judge; use the whole sets."
        )
    return Judge(plan.attribute, plan.labels, train, tests)


def split(
    plan: Plan, files: dict[str, list[Row]], seen: frozenset[str]
) -> tuple[list[Row], dict[str, list[Row]]]:
    """Training rows, and test rows by file: none that an adapter saw, none in both."""
    train: list[Row] = []
    tests: dict[str, list[Row]] = {}
    for source in plan.sources:
        for text, label in files[source.file]:
            if label not in plan.labels or normal(text) in seen:
                continue
            part = fold(text) if source.part == "fold" else source.part
            (train if part == "train" else tests.setdefault(source.file, [])).append(Row(text, label))
    tested = {normal(row.text) for rows in tests.values() for row in rows}
    return [row for row in train if normal(row.text) not in tested], tests


def fold(text: str) -> str:
    """ "test" for a fifth of all texts, else "train"; depends on nothing but the text.

    composer.training.data.side() decides by the digest's first byte; the second is independent of it.
    """
    return "test" if hashlib.sha256(normal(text).encode()).digest()[1] % 5 == 0 else "train"

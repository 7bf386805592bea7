"""The corpora of a training run: read once, cleaned once, with a classifier that knows their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

from composer.core.errors import ComposerError
from composer.training.data import Row, read_rows
from composer.training.recipes import Corpus


@dataclass(frozen=True)
class FilteredCorpora:
    """Rows per corpus name without those that look mislabelled, and a classifier fitted on all of them."""

    rows: dict[str, list[Row]]
    # None where all rows carry one label.
    classifier: Pipeline | None

    def texts(self, corpora: Sequence[Corpus], label: str) -> list[list[str]]:
        """The kept texts of a label, for each of these corpora."""
        return [[row.text for row in self.rows[corpus.name] if row.label == label] for corpus in corpora]

    def probability(self, texts: Sequence[str], label: str) -> list[float]:
        """How likely each text carries the label, by the classifier."""
        if self.classifier is None:
            raise ComposerError(
                "A recipe that lets the base write needs rows of two labels or more; "
                "add them or set self_generated: 0."
            )
        column = list(self.classifier.classes_).index(label)
        return self.classifier.predict_proba(texts)[:, column].tolist()

    def confident(self, texts: Sequence[str], confidence: float) -> dict[str, list[str]]:
        """The texts that carry a label with at least this likelihood, for each label."""
        labels = sorted({row.label for rows in self.rows.values() for row in rows})
        return {
            label: [
                text
                for text, chance in zip(texts, self.probability(texts, label), strict=True)
                if chance >= confidence
            ]
            for label in labels
        }


class CorpusStore:
    """Reads and cleans each set of corpora once, for the recipes that share it."""

    def __init__(self, data: Path | None):
        self.data = data
        self._read: dict[str, list[Row]] = {}
        self._labelled: dict[tuple, FilteredCorpora] = {}

    def rows(self, corpus: Corpus) -> list[Row]:
        if corpus.name not in self._read:
            self._read[corpus.name] = read_rows(corpus, self.data)
        return self._read[corpus.name]

    def labelled(self, corpora: Sequence[Corpus], confidence: float, seed: int) -> FilteredCorpora:
        """The corpora's rows whose own label is at least `confidence` likely.

        By a classifier that has not seen the row: out-of-fold filtering as in confident learning
        (Northcutt et al. 2021, arXiv 1911.00068).
        """
        key = (tuple(corpus.name for corpus in corpora), confidence, seed)
        if key not in self._labelled:
            self._labelled[key] = self._clean(corpora, confidence, seed)
        return self._labelled[key]

    def _clean(self, corpora: Sequence[Corpus], confidence: float, seed: int) -> FilteredCorpora:
        rows = [(corpus.name, row) for corpus in corpora for row in self.rows(corpus)]
        texts, labels = [row.text for _, row in rows], [row.label for _, row in rows]
        if len(set(labels)) < 2:
            return FilteredCorpora({corpus.name: self.rows(corpus) for corpus in corpora}, None)
        classifier = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
            LogisticRegression(C=10, max_iter=300),
        )
        folds = StratifiedKFold(3, shuffle=True, random_state=seed)
        chances = cross_val_predict(classifier, texts, labels, cv=folds, method="predict_proba")
        classes = sorted(set(labels))
        kept: dict[str, list[Row]] = {corpus.name: [] for corpus in corpora}
        for (name, row), chance in zip(rows, chances, strict=True):
            if chance[classes.index(row.label)] >= confidence:
                kept[name].append(row)
        return FilteredCorpora(kept, classifier.fit(texts, labels))

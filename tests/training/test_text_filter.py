"""The filter of a recipe: n-grams that count words, or a language model that reads them in their order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from composer.core.errors import ComposerError
from composer.model.loading import Base
from composer.training import text_filter
from composer.training.classifier import ClassifierTraining
from composer.training.corpora import CorpusStore
from composer.training.recipes import LANGUAGE_MODEL
from tests.training.test_data import write_news
from tests.training.test_train import RECIPE, base

# The words are the same, and their order is the label.
ROWS = [("ba", "sports"), ("ab", "business")] * 60
READING = replace(RECIPE, filter=LANGUAGE_MODEL)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(
        text_filter, "TRAINING", ClassifierTraining(learning_rate=0.02, batch=12, epochs=6, save_every=100)
    )
    write_news(tmp_path, [(f"{i % 9} {text}", label) for i, (text, label) in enumerate(ROWS)])
    return CorpusStore(tmp_path)


def test_a_language_model_is_trained_once_for_all_recipes_of_the_same_rows(store, tmp_path, monkeypatch):
    sport, market = text_filter.make_likelihood(READING, base, store, tmp_path)(["3 ba", "3 ab"])
    assert sport > 0.8 and market < 0.2
    monkeypatch.setattr(text_filter, "train_classifier", pytest.fail)
    other = replace(READING, name="business", label="business")
    again = text_filter.make_likelihood(other, base, store, tmp_path)(["3 ba", "3 ab"])
    assert again == pytest.approx([1 - sport, 1 - market], abs=1e-5)


def test_another_base_is_trained_anew(store, tmp_path, monkeypatch):
    text_filter.make_likelihood(READING, base, store, tmp_path)
    trained = []
    train = text_filter.train_classifier
    monkeypatch.setattr(
        text_filter, "train_classifier", lambda *given: trained.append(given[4]) or train(*given)
    )

    def another() -> Base:
        return replace(base(), spec=replace(base().spec, id="tiny/other"))

    text_filter.make_likelihood(READING, another, store, tmp_path)
    assert len(trained) == 1


def test_n_grams_count_words(store, tmp_path):
    given = ["3 ba ba", "3 ab"]
    likelihood = text_filter.make_likelihood(RECIPE, pytest.fail, store, tmp_path)
    labelled = store.labelled(RECIPE.corpora, RECIPE.confidence, RECIPE.seed)
    assert likelihood(given) == labelled.probability(given, "sports")


def test_rows_of_one_label_are_a_sentence(tmp_path):
    write_news(tmp_path, [("goal", "sports")] * 9)
    with pytest.raises(ComposerError, match=r"rows of 1 labels.*filter ngrams"):
        text_filter.make_likelihood(READING, pytest.fail, CorpusStore(tmp_path), tmp_path)

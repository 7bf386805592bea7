"""What says how likely a text that the base wrote carries a recipe's label: n-grams, or a language model.

N-grams are quick, and enough where words tell the label, as they tell topics. Moods they take for their
words: of "No, this is how I do it" they are as sure as of a complaint. An adapter that learns from what they
let through learns to say no and not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from string import ascii_uppercase

from composer.adapters.files import WEIGHTS
from composer.core.errors import ComposerError
from composer.model.loading import Base
from composer.training.classifier import ClassifierTraining, LabelPrompt, train_classifier
from composer.training.corpora import CorpusStore
from composer.training.label_reader import LabelReader
from composer.training.recipes import LANGUAGE_MODEL, Recipe

log = logging.getLogger(__name__)

# Texts -> how likely each carries the label.
Likelihood = Callable[[Sequence[str]], list[float]]

TRAINING = ClassifierTraining()
# So many rows of a corpus are read, at most: more of them take longer and teach little.
MOST_ROWS = 3200
# Rows are left out whose own label n-grams find less likely: some are mislabelled. All that is less sure
# stays in; it is what n-grams cannot read.
CLEAN = 0.3


def make_likelihood(recipe: Recipe, load: Callable[[], Base], store: CorpusStore, work: Path) -> Likelihood:
    """The recipe's filter. load: the base that reads, a fresh one each time. work: keeps what is trained.

    Raises ComposerError for labels that the language model has no answers for.
    """
    if recipe.filter == LANGUAGE_MODEL:
        reader = _trained(recipe, load, store, work)
        place = reader.labels.index(recipe.label)
        return lambda texts: reader(texts)[:, place].exp().tolist()
    labelled = store.labelled((*recipe.corpora, *recipe.contrast), recipe.confidence, recipe.seed)
    return lambda texts: labelled.probability(texts, recipe.label)


def _trained(recipe: Recipe, load: Callable[[], Base], store: CorpusStore, work: Path) -> LabelReader:
    """The language model that reads; trained where it is not there yet. Recipes of the same rows share it."""
    corpora = (*recipe.corpora, *recipe.contrast)
    labelled = store.labelled(corpora, CLEAN, recipe.seed)
    draw = random.Random(recipe.seed)
    pools = [labelled.rows[corpus.name] for corpus in corpora]
    rows = [row for pool in pools for row in draw.sample(pool, min(MOST_ROWS, len(pool)))]
    draw.shuffle(rows)
    labels = sorted({row.label for row in rows})
    if not 2 <= len(labels) <= len(ascii_uppercase):
        raise ComposerError(
            f"The recipe {recipe.name} has rows of {len(labels)} labels, and a language model chooses "
            f"between 2 to {len(ascii_uppercase)}: give it others, or the filter ngrams."
        )
    # A letter is one token in every tokenizer.
    prompt = LabelPrompt("\nLabel:", dict(zip(labels, ascii_uppercase, strict=False)))
    base = load()
    told = [base.id, [corpus.name for corpus in corpora], recipe.seed, MOST_ROWS, asdict(TRAINING)]
    folder = work / f"filter-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:10]}"
    if (folder / WEIGHTS).is_file():
        return LabelReader(prompt, base, folder)
    held_out, rows = rows[: len(rows) // 20], rows[len(rows) // 20 :]
    log.info("%s: training the classifier on %d rows", recipe.name, len(rows))
    train_classifier(prompt, base, rows, TRAINING, folder, folder / "checkpoints")
    reader = LabelReader(prompt, load(), folder)
    read = reader.labels_of([row.text for row in held_out])
    right = sum(label == row.label for label, row in zip(read, held_out, strict=True))
    log.info("%s: the classifier is right on %d of %d held-out rows", recipe.name, right, len(held_out))
    return reader

"""How well finished texts read: perplexity under the base and a second model, SLOR, variety, repetition."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.document import Block, DataTable, Paragraph
from composer.engine.engine import Engine
from composer.evaluation.metrics import distinct, mean, median, repetition, slor, unigrams
from composer.evaluation.scoring import perplexities
from composer.evaluation.texts import BASE, Text
from composer.model.loading import load_base

SECOND = "second"
BATCH = 35


@dataclass(frozen=True)
class Fluency:
    """What was found of one subject's texts, of their continuations alone."""

    subject: str
    # perplexity, second: medians over texts, under the base and under the second model.
    perplexity: float | None
    second: float | None
    # Median, nats a token.
    slor: float | None
    # Share of different word 1-, 2- and 3-grams.
    distinct: tuple[float | None, float | None, float | None]
    # Mean share of repeated 4-grams. None where there is nothing to measure.
    repeated: float | None


def second_model(source: str, device: str | None = None) -> Engine:
    """A causal language model without adapters, from a folder or by Hub id, for scoring.

    It is loaded as every base is, from safetensors and without remote code. Raises ComposerError.
    """
    folder = source if os.path.isdir(source) else None
    spec = BaseSpec(SECOND, "the second model" if folder else source, folder=folder)
    return Engine(Catalog(folder=".", default=SECOND, bases={SECOND: spec}), load_base(spec, device))


def measure_fluency(
    texts: Sequence[Text],
    engine: Engine,
    second: Engine | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Fluency]:
    """A Fluency per subject, in the order of the texts, which hold their perplexity under the base already.

    SLOR's unigrams are counted on the base's own continuations among `texts`; without any there is no SLOR.
    progress: receives how many texts the second model has scored since its last call.
    """
    ids = {text.key: _continuation_ids(engine, text) for text in texts}
    plain = [ids[text.key] for text in texts if text.subject == BASE]
    alone = unigrams(plain, len(engine.base.tokenizer)) if any(plain) else None  # [V]
    read = _second_perplexities(second, texts, progress) if second else {}
    return [
        _fluency(subject, tuple(own), ids, alone, read)
        for subject, own in groupby(texts, lambda text: text.subject)
    ]


def blocks(rows: Sequence[Fluency], second: str | None = None) -> list[Block]:
    """The rows as a table, and what each column is. second: the second model's name."""
    head = ["adapter", "perplexity", *([f"perplexity under {second}"] if second else []), "SLOR"]
    head += ["distinct-1", "distinct-2", "distinct-3", "repeated 4-grams"]
    cells = []
    for row in rows:
        numbers = (row.perplexity, *((row.second,) if second else ()), row.slor, *row.distinct)
        repeated = "-" if row.repeated is None else f"{row.repeated:.1%}"
        cells.append((row.subject, *map(_number, numbers), repeated))
    note = (
        "Of the continuation, medians over texts; distinct over all of a subject's texts; repeated 4-grams a "
        "mean, since most texts have none. SLOR: log-probability under the base less that of the tokens "
        "alone, nats a token; their frequencies are counted on the base's own continuations, each count one "
        "higher."
    )
    return [DataTable(tuple(head), tuple(cells)), Paragraph(note)]


def _fluency(
    subject: str,
    texts: Sequence[Text],
    ids: Mapping[str, Sequence[int]],
    alone: np.ndarray | None,
    read: Mapping[str, float | None],
) -> Fluency:
    continuations = [text.continuation for text in texts]
    return Fluency(
        subject,
        median(text.perplexity for text in texts),
        median(read.get(text.key) for text in texts),
        median(_slor(text, ids[text.key], alone) for text in texts),
        (distinct(continuations, 1), distinct(continuations, 2), distinct(continuations, 3)),
        mean(map(repetition, continuations)),
    )


def _slor(text: Text, ids: Sequence[int], alone: np.ndarray | None) -> float | None:
    if alone is None or text.perplexity is None:
        return None
    return slor(-math.log(text.perplexity), ids, alone)


def _continuation_ids(engine: Engine, text: Text) -> list[int]:
    """The tokens that the text's perplexity is of."""
    whole = engine.base.tokenizer(text.prompt + text.continuation)["input_ids"]
    return whole[engine.base.count_tokens(text.prompt) :]


def _second_perplexities(
    engine: Engine, texts: Sequence[Text], progress: Callable[[int], None]
) -> dict[str, float | None]:
    scores: dict[str, float | None] = {}
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        pairs = [(text.prompt, text.continuation) for text in part]
        scores.update(zip((text.key for text in part), perplexities(engine, pairs), strict=True))
        progress(len(part))
    return scores


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

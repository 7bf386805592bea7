"""Texts that the base writes itself from the first words of real rows.

Trained on news or reviews alone, an adapter learns their idiom beside their attribute: its texts are
surprising to the base (three times the base's own perplexity, measured). The base's own continuations
of the same openings carry the attribute in the base's idiom; a classifier trained on the real rows says
which of them do. (Rejection sampling for fine-tuning, as in RAFT, Dong et al. 2023, arXiv 2304.06767.)
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from composer.adapters.bank import Bank
from composer.model.base import Base
from composer.model.batch import Batch, Row
from composer.model.inject import GatedModel
from composer.model.passes import decode_pass
from composer.model.text import Continuation
from composer.spec import Sampling
from composer.training.library import Labelled
from composer.training.recipes import Recipe

log = logging.getLogger(__name__)

BATCH = 96
OPENING_WORDS = (3, 8)


def written(recipe: Recipe, base: Base, labelled: Labelled, file: Path) -> list[str]:
    """`recipe.written` texts of the recipe's label. `file` (JSON Lines) keeps them: a run goes on from it.

    The base is used bare; its Linear layers are wrapped, so load another one to train.
    """
    texts = (
        [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    )
    if len(texts) >= recipe.written:
        return texts[: recipe.written]
    file.parent.mkdir(parents=True, exist_ok=True)
    openings = _openings(recipe, labelled)
    model = GatedModel(base.model)
    with tqdm(total=recipe.written, initial=len(texts), desc=f"{recipe.name}: writing") as bar:
        while len(texts) < recipe.written:
            # Seeded by the count, so that a run that was cut off does not write the same texts again.
            draw = random.Random(f"{recipe.seed} {len(texts)}")
            drafts = list(
                _continue(model, base, draw.sample(openings, min(BATCH, len(openings))), recipe, draw)
            )
            chances = labelled.probability(drafts, recipe.label)
            kept = [
                draft for draft, chance in zip(drafts, chances, strict=True) if chance >= recipe.confidence
            ]
            with file.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps({"text": text}) + "\n" for text in kept)
            texts += kept
            bar.update(len(kept))
            log.info("%s: kept %d of %d drafts", recipe.name, len(kept), len(drafts))
    return texts[: recipe.written]


def _openings(recipe: Recipe, labelled: Labelled) -> list[str]:
    """The first few words of every real row of the label, equally many from each corpus."""
    draw = random.Random(recipe.seed)
    pools = [[row.text for row in rows if row.label == recipe.label] for rows in labelled.rows.values()]
    count = min(map(len, pools))
    texts = [text for pool in pools for text in draw.sample(pool, count)]
    return [" ".join(text.split()[: draw.randint(*OPENING_WORDS)]) for text in texts]


def _continue(
    model: GatedModel, base: Base, openings: Sequence[str], recipe: Recipe, draw: random.Random
) -> Iterator[str]:
    prompts = [base.tokenizer(opening)["input_ids"] for opening in openings]
    room = max(recipe.length - min(map(len, prompts)), 1)
    ends = frozenset({base.tokenizer.eos_token_id})
    texts = [Continuation(base.tokenizer, ids, ends) for ids in prompts]
    bare = np.zeros((model.layers, 0))  # [L, 0]
    rows = [
        Row(place, ids, bare, Sampling(max_new_tokens=room, top_p=0.9, seed=draw.getrandbits(32)))
        for place, ids in enumerate(prompts)
    ]
    layout = model.layout(Bank())
    batch = Batch(model, decode_pass(model), layout, ends, len(rows), max(map(len, prompts)) + room)
    drawn, _ = batch.join(rows, layout)
    while drawn:
        for each in drawn:
            texts[each.row.key].push(each.token, last=each.finish is not None)
        batch.leave([each.row.key for each in drawn if each.finish])
        drawn = batch.step()[0] if batch.rows else []
    for opening, text in zip(openings, texts, strict=True):
        # A blank line is where the base changes the subject.
        yield opening + text.text.partition("\n\n")[0]

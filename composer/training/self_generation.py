"""Generates training texts with the base itself, from the first words of real rows.

Trained on news or reviews alone, an adapter learns their idiom beside their attribute: its texts are
surprising to the base (three times the base's own perplexity, measured). The base's own continuations
of the same openings carry the attribute in the base's idiom; a filter trained on the real rows says which
of them do. (Rejection sampling for fine-tuning, as in RAFT, Dong et al. 2023, arXiv 2304.06767.)

Such openings are of the attribute's own domain, though. A second round has the first round's adapter go on
from other domains' first words, where it is needed, and keeps what the filter is as sure of.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from composer.adapters.bank import AdapterBank
from composer.adapters.fit.report import check_fit
from composer.adapters.hub import inspect
from composer.adapters.weights import load_adapter
from composer.core.composition import Sampling
from composer.core.errors import ComposerError
from composer.model.gated_model import GatedModel
from composer.model.loading import Base
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.batch import Batch, BatchRow, Failed
from composer.model.runtime.select import select_runner
from composer.model.tokens import Continuation
from composer.training.corpora import CorpusStore, FilteredCorpora
from composer.training.data import first_words
from composer.training.recipes import Recipe
from composer.training.text_filter import Likelihood
from composer.training.written_texts import fill_from_kept

log = logging.getLogger(__name__)

BATCH = 96


class TextGenerator:
    """Continues texts with the bare base, or with one adapter at weight 1.

    The base's Linear layers are wrapped: load another one to train.
    """

    def __init__(self, base: Base, adapter: Path | None = None):
        self._base, self._model = base, GatedModel(base.model)
        bank = AdapterBank()
        if adapter is not None:
            files = inspect(str(adapter), None, adapter.name)
            report = check_fit(files, self._model.sites)
            factors = load_adapter(adapter, files, report, device=base.device, dtype=base.dtype)
            bank = bank.add(adapter.name, factors)
        self._mixture = LogitMixture.one(np.ones((self._model.layers, len(bank.names))))  # of [L, 0 or 1]
        self._layout, self._runner = self._model.layout(bank), select_runner(self._model)
        self._ends = frozenset({base.tokenizer.eos_token_id})

    def continued(self, openings: Sequence[str], length: int, draw: random.Random) -> Iterator[str]:
        """Each opening with a continuation, about `length` tokens in all."""
        tokenizer = self._base.tokenizer
        prompts = [tokenizer(opening)["input_ids"] for opening in openings]
        new_tokens = max(length - min(map(len, prompts)), 1)
        texts = [Continuation(tokenizer, ids, self._ends) for ids in prompts]
        rows = [
            BatchRow(
                place,
                ids,
                self._mixture,
                Sampling(max_new_tokens=new_tokens, top_p=0.9, seed=draw.getrandbits(32)),
            )
            for place, ids in enumerate(prompts)
        ]
        longest = max(map(len, prompts)) + new_tokens
        batch = Batch(self._runner, self._layout, self._ends, len(rows), longest)
        drawn, _ = batch.add(rows, self._layout)
        while drawn:
            ended = []
            for each in drawn:
                if isinstance(each, Failed):
                    raise each.fault
                texts[each.row.key].push(each.token, last=each.finish is not None)
                if each.finish:
                    ended.append(each.row.key)
            batch.remove(ended)
            drawn = batch.step()[0] if batch.rows else []
        for opening, text in zip(openings, texts, strict=True):
            # A blank line is where the base changes the subject.
            yield opening + text.text.partition("\n\n")[0]


def generate_own(
    recipe: Recipe,
    make_generator: Callable[[], TextGenerator],
    openings: Sequence[str],
    make_filter: Callable[[], Likelihood],
    count: int,
    file: Path,
) -> list[str]:
    """`count` generated texts of the recipe's label. `file` (JSON Lines) keeps them for an interrupted run;
    where texts of its name were kept for all (see written_texts), it begins with them.

    make_generator, make_filter: called only where texts are missing, since they load a base. Raises
    ComposerError if no text of a round passes the recipe's filters.
    """
    if fill_from_kept(file):
        log.info("%s: texts that were kept are used", recipe.name)
    texts = (
        [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    )
    if len(texts) >= count:
        return texts[:count]
    file.parent.mkdir(parents=True, exist_ok=True)
    likelihood, generator = make_filter(), make_generator()
    with tqdm(total=count, initial=len(texts), desc=f"{recipe.name}: writing") as bar:
        while len(texts) < count:
            # Seeded by the count, so that a run that was cut off does not write the same texts again.
            draw = random.Random(f"{recipe.seed} {len(texts)}")
            chosen = draw.sample(list(openings), min(BATCH, len(openings)))
            drafts = list(generator.continued(chosen, recipe.length, draw))
            shaped = _shaped(drafts, recipe.shape)
            chances = likelihood(shaped) if shaped else []
            kept = [
                draft for draft, chance in zip(shaped, chances, strict=True) if chance >= recipe.confidence
            ]
            if not kept:
                # The next drafts would be the same ones.
                raise ComposerError(
                    f"No text that the base wrote for {recipe.name} passes the recipe's filters; "
                    "lower `confidence` or set self_generated: 0."
                )
            with file.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps({"text": text}) + "\n" for text in kept)
            texts += kept
            bar.update(len(kept))
            log.info("%s: kept %d of %d drafts", recipe.name, len(kept), len(drafts))
    return texts[:count]


def own_openings(recipe: Recipe, labelled: FilteredCorpora) -> list[str]:
    """The first few words of every real row of the label, equally many from each corpus."""
    return _openings(recipe, labelled.texts(recipe.corpora, recipe.label))


def other_openings(recipe: Recipe, library: CorpusStore) -> list[str]:
    """The first few words of the recipe's distractor rows: text of other domains."""
    return _openings(
        recipe, [[row.text for row in library.rows(corpus)] for corpus in recipe.distractor_prefixes]
    )


def _openings(recipe: Recipe, pools: Sequence[Sequence[str]]) -> list[str]:
    draw = random.Random(recipe.seed)
    count = min(map(len, pools))
    texts = [text for pool in pools for text in draw.sample(pool, count)]
    return [first_words(text, draw.randint(*recipe.opening_words)) for text in texts]


def _shaped(drafts: Sequence[str], shape: str | None) -> list[str]:
    """Of each draft the beginning that has the shape; drafts without it are left out."""
    if shape is None:
        return list(drafts)
    return [found.group() for draft in drafts if (found := re.match(shape, draft))]

"""The whole of a recipe: gather its texts, have the base write the rest, train."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from composer.adapters.files import WEIGHTS
from composer.model.loading import Base
from composer.training.control_tokens import control
from composer.training.corpora import CorpusStore
from composer.training.data import Pool, Sample, first_sentence, pack
from composer.training.recipes import Recipe
from composer.training.self_generation import TextGenerator, generate_own, other_openings, own_openings
from composer.training.text_filter import Likelihood, make_likelihood
from composer.training.trainer import train
from composer.training.written_texts import file_name

log = logging.getLogger(__name__)

Load = Callable[[], Base]

# What the first round's adapter writes is filtered, so it need not be trained to the end, and may learn
# openings. Its gain is no recipe's: another strength of the finished adapter would else ask for other texts.
FIRST_ROUND_STEPS, FIRST_ROUND_GAIN = 120, 1.2


@dataclass(frozen=True)
class Bases:
    """What loads the base anew each time it is called, since writing and training both change theirs."""

    # As it is trained on: in nf4 for QLoRA.
    train: Load
    # As it writes texts: quantised products are slow on a CPU, and its words need not be the quantised ones.
    write: Load
    # The repository's id, which tells texts of one base from another's.
    id: str = ""


def make(
    recipe: Recipe, bases: Bases, library: CorpusStore, out: Path, work: Path, seed: int | None = None
) -> Path:
    """Write, train, and where the recipe says so both once more. Returns out/<name>.

    seed: of this training (None: the recipe's), for another training on the same texts.
    """
    pools = make_pools(recipe, bases, library, work)
    if seed is not None and seed != recipe.seed:
        recipe, work = replace(recipe, seed=seed), work / f"seed-{seed}"
    return _trained(recipe, bases, library, pools, out, work)


def written_files(recipe: Recipe, base: str, work: Path) -> list[Path]:
    """Those of `make`'s texts that the base (its id) wrote for the recipe itself, if they are there."""
    names = [file_name(recipe, base), file_name(recipe, base, first_round(recipe))]
    return [work / name for name in names if (work / name).is_file()]


def make_pools(recipe: Recipe, bases: Bases, library: CorpusStore, work: Path) -> list[Pool]:
    """What the recipe is trained on: real rows of its label, and what the base wrote from their first words.

    With a second round, also what the first round's adapter writes from other domains' first words. Of a
    union: its members' pools, each with its control words.
    """
    pools = [*_united(recipe, bases, library, work)] if recipe.union else _own(recipe, bases, library, work)
    log.info("%s: %s texts", recipe.name, " + ".join(str(len(pool.texts)) for pool in pools))
    return pools


def _own(recipe: Recipe, bases: Bases, library: CorpusStore, work: Path) -> list[Pool]:
    labelled = library.labelled((*recipe.corpora, *recipe.contrast), recipe.confidence, recipe.seed)
    real = labelled.texts(recipe.corpora, recipe.label)
    pools = [Pool((1 - recipe.self_generated_share) / len(real), texts) for texts in real]
    if recipe.self_generated:
        file = work / file_name(recipe, bases.id)
        openings = own_openings(recipe, labelled)

        def make_filter() -> Likelihood:
            return make_likelihood(recipe, bases.write, library, work)

        own = generate_own(
            recipe, lambda: TextGenerator(bases.write()), openings, make_filter, recipe.self_generated, file
        )
        if recipe.second_round:
            file = work / file_name(recipe, bases.id, first_round(recipe))
            openings = other_openings(recipe, library)

            def make_generator() -> TextGenerator:
                return TextGenerator(bases.write(), _first_round(recipe, bases, library, work))

            own += generate_own(recipe, make_generator, openings, make_filter, recipe.second_round, file)
        silent = recipe.opening_words[1] if recipe.silent_openings else 0
        pools.append(Pool(recipe.self_generated_share, own, silent=silent))
    return pools


def first_round(recipe: Recipe) -> Recipe:
    """The recipe of the adapter that writes for the second round."""
    steps = min(recipe.steps, FIRST_ROUND_STEPS)
    return replace(recipe, second_round=0, steps=steps, alpha_gain=FIRST_ROUND_GAIN, silent_openings=False)


def _first_round(recipe: Recipe, bases: Bases, library: CorpusStore, work: Path) -> Path:
    """The adapter that writes for the second round; trained where it is not there yet."""
    once, out = first_round(recipe), work / "first-round"
    folder = out / recipe.name
    if not (folder / WEIGHTS).is_file():
        _trained(once, bases, library, _own(once, bases, library, work), out, out / "checkpoints")
    return folder


def _united(recipe: Recipe, bases: Bases, library: CorpusStore, work: Path) -> Iterator[Pool]:
    """The members' pools with equal chances, halved again for second labels; within a member by its recipe.

    A member whose label is one of the second labels gets no second label.
    """
    second = library.labelled(recipe.second, recipe.confidence, recipe.seed) if recipe.second else None
    for member in recipe.union:
        for pool in make_pools(member, bases, library, work):
            parts = {(member.label,): pool.texts}
            if second is not None and member.label not in recipe.second_labels:
                confident = second.confident(pool.texts, recipe.confidence)
                parts = {(label, member.label): texts for label, texts in confident.items()}
            for labels, texts in parts.items():
                if texts:
                    yield pool._replace(chance=pool.chance / len(parts), texts=texts, control=control(labels))


def _trained(
    recipe: Recipe, bases: Bases, library: CorpusStore, pools: Sequence[Pool], out: Path, work: Path
) -> Path:
    base = bases.train()
    return train(recipe, base, make_samples(recipe, pools, base.tokenizer, library), out, work)


def make_samples(recipe: Recipe, pools: Sequence[Pool], tokenizer, library: CorpusStore) -> list[Sample]:
    """The recipe's sequences from its pools, some of them after a distractor prefix."""
    candidates = (
        first_sentence(row.text) for corpus in recipe.distractor_prefixes for row in library.rows(corpus)
    )
    prefixes = sorted({sentence for sentence in candidates if sentence})
    return pack(
        pools,
        prefixes,
        tokenizer,
        count=recipe.steps * recipe.batch,
        length=recipe.length,
        distractor_share=recipe.distractor_share,
        seed=recipe.seed,
        separator=recipe.separator,
    )

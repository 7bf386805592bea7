"""The whole of a run on own texts: train, measure, save, check. A run that was cut off goes on."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from composer.adapters.files import WEIGHTS
from composer.core.shell import tell
from composer.training.own_texts.card import write_own_card
from composer.training.own_texts.fitting import fit_and_save
from composer.training.own_texts.options import Options
from composer.training.own_texts.reader import OwnTexts
from composer.training.own_texts.recitation import CONTINUATIONS, check_recitation
from composer.training.own_texts.results import Results
from composer.training.own_texts.resumption import RunFolder
from composer.training.own_texts.sequences import split
from composer.training.pipeline import Bases
from composer.training.self_generation import TextGenerator

# Of what a run leaves in its folder; another one is not gone on from.
FORMAT = 1


@dataclass(frozen=True)
class Folders:
    """Where the adapter goes (out/<name>) and where checkpoints are kept (work/<name>)."""

    out: Path
    work: Path


def train_on_texts(
    name: str,
    own: OwnTexts,
    options: Options,
    bases: Bases,
    identity: Sequence[str | None],
    to: Folders,
    force: bool = False,
) -> Results:
    """Train the adapter on the texts and write it with its card to out/<name>.

    identity: what says which base it is, so that another one's checkpoints are noticed. force: whether
    another run's checkpoints and adapter may be replaced. Raises ComposerError if they may not, and for too
    few tokens.
    """
    folder = to.out / name
    plan = json.loads(
        json.dumps({"format": FORMAT, "texts": _digest(own.texts), "base": [*identity], **asdict(options)})
    )
    made = RunFolder(to.work / name, plan)
    ended = made.claim(folder / WEIGHTS, force)
    if ended is not None:
        tell(f"{name}: is there already, from the same texts and options; --force trains it again")
        return Results(**ended)
    results = _made(name, own, options, bases, folder, made.path)
    made.finish(asdict(results))
    return results


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _made(
    name: str, own: OwnTexts, options: Options, bases: Bases, folder: Path, checkpoints: Path
) -> Results:
    parts = split(own.texts, options.seed)
    trained = fit_and_save(name, own, parts, options, bases.train(), folder, checkpoints)
    # The base that was trained on has to go before one is loaded to write: a GPU may not hold both.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    tell(f"{name}: writes {CONTINUATIONS} texts, to see whether it repeats what it was trained on")
    writing = bases.write()
    recitation = check_recitation(
        TextGenerator(writing, folder), parts.training, parts.held_out, options.length, options.seed
    )
    results = Results(
        tokens=trained.tokens,
        held_out=len(parts.held_out),
        steps=trained.settings.steps,
        passes=trained.passes,
        training_loss=trained.loss,
        loss_before=trained.before,
        loss_after=trained.after,
        shared_words=recitation.words,
        held_out_words=recitation.held_out_words,
        recites=recitation.recites,
    )
    write_own_card(folder, trained.settings, writing.id, own, results, trained.where)
    return results

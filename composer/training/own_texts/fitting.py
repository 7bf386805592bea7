"""Fits an adapter to the training texts, measures the loss on the held-out ones, and writes its two files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from peft import PeftModel
from peft.helpers import rescale_adapter_scale

from composer.core.errors import ComposerError
from composer.core.shell import tell
from composer.model.loading import Base
from composer.training.data import Sample
from composer.training.own_texts.card import how, named_files
from composer.training.own_texts.options import Options
from composer.training.own_texts.reader import OwnTexts
from composer.training.own_texts.sequences import (
    Split,
    choose_separator,
    count_tokens,
    default_steps,
    sequences,
)
from composer.training.recipes import TrainingSettings
from composer.training.trainer import collate, fit, newest_checkpoint, save_adapter

FEWEST_TOKENS = 3000
# Sequences whose loss is measured.
MEASURED, MEASURED_BATCH = 64, 16
# Steps between two checkpoints: what a run that is cut off loses.
SAVE_EVERY = 10
# The learning rate of the QLoRA paper for models of billions of parameters; small ones take more.
BIG, BIG_RATE, SMALL_RATE = 1e9, 2e-4, 1e-3


@dataclass(frozen=True)
class Trained:
    """What is known of the training when its base is gone."""

    settings: TrainingSettings
    tokens: int
    passes: float
    loss: float
    before: float
    after: float
    # Device and type of the products.
    where: str


def fit_and_save(
    name: str, own: OwnTexts, parts: Split, options: Options, base: Base, folder: Path, checkpoints: Path
) -> Trained:
    """Train, measure the loss on the held-out texts, and write the adapter to `folder`."""
    tokenizer = base.tokenizer
    held_out = count_tokens(parts.held_out, tokenizer)
    training = count_tokens(parts.training, tokenizer)
    if held_out + training < FEWEST_TOKENS:
        raise ComposerError(
            f"The {len(own.texts)} texts have {held_out + training} tokens together, and at least "
            f"{FEWEST_TOKENS} are needed: add more or longer ones."
        )
    settings = _settings(name, options, training, base)
    passes = settings.steps * settings.batch * settings.length / training
    tell(
        f"{name}: {len(own.texts)} texts of {named_files(own.files)} ({own.duplicates} duplicates left out), "
        f"{held_out + training} tokens; {len(parts.held_out)} texts are held out"
    )
    tell(
        f"{name}: {settings.steps} steps of {settings.batch} sequences of {settings.length} tokens, "
        f"{passes:.1f} passes over the texts"
    )

    def samples(texts: Sequence[str], wanted: int) -> list[Sample]:
        stream = sequences(
            texts, tokenizer, length=options.length, separator=choose_separator(own.texts), seed=options.seed
        )
        return list(islice(stream, wanted))

    try:
        fitted = fit(settings, base, samples(parts.training, settings.steps * settings.batch), checkpoints)
    except KeyboardInterrupt:
        saved = newest_checkpoint(checkpoints)
        done = f"step {saved.rpartition('-')[2]} of {settings.steps}" if saved else "the start"
        tell(f"{name}: stopped; the same command goes on from {done}")
        raise
    measured = samples(parts.held_out, min(max(held_out // options.length, 1), MEASURED))
    with fitted.model.disable_adapter():
        before = _loss(fitted.model, measured, fitted.dtype, base)
    with rescale_adapter_scale(fitted.model, options.alpha_gain):
        after = _loss(fitted.model, measured, fitted.dtype, base)
    save_adapter(fitted.model, folder, base, options.alpha_gain)
    where = f"{how(base)}; on {base.device.type}, products computed in {fitted.dtype}"
    return Trained(settings, held_out + training, passes, fitted.loss, before, after, where)


def _settings(name: str, options: Options, tokens: int, base: Base) -> TrainingSettings:
    """tokens: those to train on."""
    rate = BIG_RATE if base.model.num_parameters() >= BIG else SMALL_RATE
    return TrainingSettings(
        name=name,
        rank=options.rank,
        alpha=2 * options.rank,
        dropout=0.0,
        learning_rate=options.learning_rate or rate,
        steps=options.steps or default_steps(tokens, options.batch * options.length),
        batch=options.batch,
        length=options.length,
        warmup=0.05,
        seed=options.seed,
        save_every=SAVE_EVERY,
        alpha_gain=options.alpha_gain,
    )


@torch.no_grad()
def _loss(model: PeftModel, samples: Sequence[Sample], dtype: str, base: Base) -> float:
    """Mean loss in nats per token, computed as in training."""
    model.eval()
    total = 0.0
    half = torch.autocast(base.device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    for start in range(0, len(samples), MEASURED_BATCH):
        part = list(samples[start : start + MEASURED_BATCH])
        batch = {key: value.to(base.device) for key, value in collate(part).items()}  # [B, T]
        with half:
            total += model(**batch).loss.item() * len(part)
    return total / len(samples)

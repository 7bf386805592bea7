"""The model card of an adapter trained on somebody's own texts. It names the files and quotes nothing."""

from __future__ import annotations

from pathlib import Path

from composer.core.errors import sanitize
from composer.model.loading import Base
from composer.training.own_texts.reader import OwnTexts
from composer.training.own_texts.results import Results
from composer.training.recipes import TrainingSettings

# Files named in full; a folder may have thousands.
NAMED = 10


def write_own_card(
    folder: Path, settings: TrainingSettings, base: str, own: OwnTexts, results: Results, where: str
) -> None:
    """Write folder/README.md. base: its repository. where: what it was trained with, as `how` begins it."""
    folder.joinpath("README.md").write_text(
        f"""---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [lora, adapter-composer]
---

# {settings.name}

An adapter of `{base}` trained on texts of one kind.
It is made to be added to others: the Adapter Composer sums the outputs of several at every layer.

## Data

{len(own.texts)} texts of {named_files(own.files)}, {results.tokens} tokens together.
{results.held_out} of them were held out. {own.duplicates} duplicates were left out.
Licence: that of the texts.

## Measured

| | |
|---|---|
| loss on the held-out texts, base | {results.loss_before:.2f} |
| loss on the held-out texts, with the adapter | {results.loss_after:.2f} |
| longest run of words its continuations share with the training texts | {results.shared_words} |
| the same of held-out texts | {results.held_out_words} |
| repeats training text | {results.repeats} |

Losses are in nats per token, on the base it was trained on.

## Training

Rank {settings.rank}, alpha {settings.alpha:g} (stored as {settings.alpha * settings.alpha_gain:g}),
all linear layers, {settings.steps} steps of {settings.batch} sequences of {settings.length} tokens
({results.passes:.1f} passes), learning rate {settings.learning_rate:g} (cosine), seed {settings.seed}; last
training loss {results.training_loss:.2f}. {where}.
Weights are stored in bfloat16.
Made with `python -m composer train {settings.name} --texts ...`.

## Limits

The adapter has learnt all that its texts have in common: their subject and idiom beside what they were
chosen for.
""",
        "utf-8",
    )


def how(base: Base) -> str:
    return "QLoRA (nf4 base)" if base.spec.quantization == "nf4" else "LoRA"


def named_files(files: tuple[str, ...]) -> str:
    """The files' names in a sentence."""
    named = ", ".join(sanitize(name) for name in files[:NAMED])
    return f"{named} and {len(files) - NAMED} more files" if len(files) > NAMED else named

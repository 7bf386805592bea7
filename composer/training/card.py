"""The model card of a trained adapter: what it is, what it was made of, what was measured."""

from __future__ import annotations

from pathlib import Path

from composer.model.base import Base
from composer.training.recipes import Recipe

MEASURED = ("<!-- measured -->", "<!-- /measured -->")


def write_card(folder: Path, recipe: Recipe, base: Base, *, loss: float) -> None:
    """Write folder/README.md. The measured row between the markers is filled in by `composer evaluate`."""
    how = "QLoRA (nf4 base)" if base.spec.quantization == "nf4" else "LoRA"
    corpora = "\n".join(
        f"- {corpus.described(recipe.label)}. Licence: {corpus.licence}." for corpus in recipe.corpora
    )
    openers = ", ".join(f"`{corpus.origin}`" for corpus in recipe.openers)
    half = (
        "Only the half of the rows that `composer.training.data.side` gives to adapters was used; "
        "the other half is the judges'.\n\n"
        if any(corpus.side == "adapter" for corpus in recipe.corpora)
        else ""
    )
    if recipe.contrast:
        against = ", ".join(f"`{corpus.origin}`" for corpus in recipe.contrast)
        half += f"A classifier tells them from rows of {against}, which are not trained on.\n\n"
    own = (
        f"{recipe.written_share:.0%} of the text is the base's own: {recipe.written} continuations it wrote "
        "of those\nrows' first words and that a classifier trained on the rows found to be of this label.\n"
        if recipe.written
        else ""
    )
    if recipe.rewritten:
        own += (
            f"{recipe.rewritten} more come from a first training round's adapter, which continued the first\n"
            f"words of rows of {openers}; the adapter here was trained from the start on all of them.\n"
        )
    folder.joinpath("README.md").write_text(
        f"""---
base_model: {base.id}
library_name: peft
pipeline_tag: text-generation
tags: [lora, adapter-composer]
---

# {recipe.name}

A {how} adapter that makes `{base.id}` continue any text in a *{recipe.label}* way. It is made to be
added to others: the Adapter Composer sums the outputs of several at every layer.

## Measured

{MEASURED[0]}
Not measured yet: run `python -m composer evaluate --data FOLDER --write-cards`.
{MEASURED[1]}

A dash under control: no judge decides on this label.

## Data

{corpora}

{half}Rows whose own label an out-of-fold classifier found less than {recipe.confidence:.0%} likely were
dropped as mislabelled. {own}One sequence in {1 / recipe.opener_share:.1f} begins with an unrelated
sentence from {openers} that carries no loss, so that the adapter pulls other domains' text its way too.

## Training

{how}, rank {recipe.rank}, alpha {recipe.alpha:g} (stored as {recipe.alpha * recipe.gain:g}, so that
weight 1 is where the adapter does its job alone), all linear layers, {recipe.steps} steps of {recipe.batch}
sequences of {recipe.length} tokens, learning rate {recipe.learning_rate:g} (cosine), seed {recipe.seed};
last training loss {loss:.2f}; on {base.device.type}. Weights are stored in bfloat16.
Repeat it with `python -m composer train {recipe.name} --data FOLDER`.

## Limits

A 135M-parameter base writes fluent nonsense: names, numbers and facts in its texts are made up. The
adapter carries the domain of its training text, named above, beside its attribute.
""",
        "utf-8",
    )

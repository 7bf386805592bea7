"""The model card of a trained adapter: purpose, training data, measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from composer.model.loading import Base
from composer.training.control_tokens import control
from composer.training.recipes import NGRAMS, Recipe

MEASURED = ("<!-- measured -->", "<!-- /measured -->")


def write_card(folder: Path, recipe: Recipe, base: Base, *, loss: float, precision: str) -> None:
    """Write folder/README.md. The measured row between the markers is filled in by `composer evaluate`."""
    how = "QLoRA (nf4 base)" if base.spec.quantization == "nf4" else "LoRA"
    about = _union if recipe.union else _single
    folder.joinpath("README.md").write_text(
        f"""---
base_model: {base.id}
library_name: peft
pipeline_tag: text-generation
tags: [lora, adapter-composer]
---

# {recipe.name}

{about(recipe, how, base.id)}

## Training

{how}, rank {recipe.rank}, alpha {recipe.alpha:g} (stored as {recipe.alpha * recipe.alpha_gain:g}, so that
weight 1 is where the adapter does its job alone), all linear layers, {recipe.steps} steps of {recipe.batch}
sequences of {recipe.length} tokens, learning rate {recipe.learning_rate:g} (cosine), seed {recipe.seed};
last training loss {loss:.2f}; on {base.device.type}, products computed in {precision}.
Weights are stored in bfloat16.
Repeat it with `python -m composer train {recipe.name} --data FOLDER`.

## Limits

A 135M-parameter base writes fluent nonsense: names, numbers and facts in its texts are made up. The
adapter carries the domain of its training text, named above, beside its attribute.
""",
        "utf-8",
    )


def _single(recipe: Recipe, how: str, base: str) -> str:
    return f"""A {how} adapter that makes `{base}` continue any text in a *{recipe.label}* way.
It is made to be added to others: the Adapter Composer sums the outputs of several at every layer.

## Measured

{MEASURED[0]}
Not measured yet: run `python -m composer evaluate --data FOLDER --write-cards`.
{MEASURED[1]}

## Data

{_corpora(recipe)}

{_half(recipe)}{_cleaned(recipe)} {_distractors(recipe)}"""


def _union(recipe: Recipe, how: str, base: str) -> str:
    labels = [member.label for member in recipe.union]
    second = recipe.second_labels
    single = [label for label in labels if not second or label in second]
    double = [label for label in labels if label not in single]
    asked = [*((label,) for label in single), *((label, double[0]) for label in second if double)]
    words = ", ".join(f"`{control(each).rstrip()}`" for each in asked)
    parts = (f"### {each.label}\n\n{_corpora(each)}\n\n{_cleaned(each)}\n\n" for each in recipe.union)
    return f"""A {how} adapter of `{base}` trained on the union of the texts of
{", ".join(member.name for member in recipe.union)}. It has to be told
what is wanted: control words and a space before the text that it is to continue, such as
{words}.
The Adapter Composer's study compares it with summing adapters of one label each.

## Measured

{MEASURED[0]}
Not measured yet: `python -m composer study` measures it.
{MEASURED[1]}

## Data

Control words stand before every text and carry no loss; each set below is drawn from equally often.
{_second(recipe, second)}
{"".join(parts)}### All of it

{_half(recipe)}{_distractors(recipe)}"""


def _second(recipe: Recipe, labels: Sequence[str]) -> str:
    if not labels:
        return ""
    sets = "\n".join(f"- `{corpus.origin}`. Licence: {corpus.licence}." for corpus in recipe.second)
    others = [member.label for member in recipe.union if member.label not in labels]
    return f"""
Each text of {", ".join(others)} was labelled {" or ".join(f"*{label}*" for label in labels)} too, by a
classifier of the rows below. Where it was less than {recipe.confidence:.0%} sure, the text was left out.

{sets}
"""


def _corpora(recipe: Recipe) -> str:
    return "\n".join(
        f"- {corpus.described(recipe.label)}. Licence: {corpus.licence}." for corpus in recipe.corpora
    )


def _half(recipe: Recipe) -> str:
    read = [corpus for each in (recipe, *recipe.union) for corpus in each.corpora]
    if all(corpus.side == "all" for corpus in read):
        return ""
    of = (
        ""
        if all(corpus.side == "adapter" for corpus in read)
        else " of "
        + ", ".join(dict.fromkeys(f"`{corpus.origin}`" for corpus in read if corpus.side == "adapter"))
    )
    return (
        f"Only the half of the rows{of} that `composer.training.data.side` gives to adapters was used; "
        "the other half is the judges'.\n\n"
    )


def _cleaned(recipe: Recipe) -> str:
    """Which rows were dropped, and what was written beside the others."""
    against = ", ".join(f"`{corpus.origin}`" for corpus in recipe.contrast)
    said = [f"A classifier tells them from rows of {against}, which are not trained on.\n"] if against else []
    said.append(
        f"Rows whose own label an out-of-fold classifier found less than {recipe.confidence:.0%} likely\n"
        "were dropped as mislabelled."
    )
    if recipe.self_generated:
        said.append(
            f"{recipe.self_generated_share:.0%} of the text is the base's own: {recipe.self_generated} "
            f"continuations\nit wrote of those rows' first words and that {_reader(recipe)} trained "
            "on the rows found to be of this\nlabel."
        )
        if recipe.shape:
            said.append(f"Of each only the beginning that matches\n`{recipe.shape}` was kept.")
    if recipe.second_round:
        corpora = ", ".join(f"`{corpus.origin}`" for corpus in recipe.distractor_prefixes)
        said.append(
            f"{recipe.second_round} more come from a first training round's adapter, which continued\n"
            f"the first words of rows of {corpora}; the adapter was trained from the start on all of them."
        )
    if recipe.self_generated and recipe.silent_openings:
        said.append(f"The first {recipe.opening_words[1]} words of such a text carry no loss.")
    return " ".join(said)


def _reader(recipe: Recipe) -> str:
    return "a classifier" if recipe.filter == NGRAMS else "a language model"


def _distractors(recipe: Recipe) -> str:
    corpora = ", ".join(f"`{corpus.origin}`" for corpus in recipe.distractor_prefixes)
    return (
        f"One sequence in {1 / recipe.distractor_share:.1f} begins with\nan unrelated sentence from "
        f"{corpora} that carries no loss, so that the adapter pulls\nother domains' text its way too."
    )

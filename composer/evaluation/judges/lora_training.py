"""Trains judges that are a language model with a LoRA adapter, on rows that no adapter under study saw."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from composer.evaluation.judges.lora_judge import LoraJudge, LoraJudgeFile, save_judge_file
from composer.evaluation.judges.training import PLANS, Plan, Source, adapters_texts, held_out, measure, some
from composer.model.loading import Base
from composer.training.classifier import ClassifierTraining, LabelPrompt, train_classifier

log = logging.getLogger(__name__)

# Held-out rows of each file that a judge is measured on: its accuracy within 2.5 points.
MEASURED = 1500


@dataclass(frozen=True)
class LoraPlan:
    """What such a judge is made from."""

    rows: Plan
    prompt: LabelPrompt
    training: ClassifierTraining
    # File -> the most rows to train on, so that a large set does not drown the others.
    most: Mapping[str, int]


# Another judge is one more entry here.
LORA_PLANS: Mapping[str, LoraPlan] = {
    "sentiment": LoraPlan(
        Plan(
            "sentiment",
            ("negative", "positive"),
            (
                Source("sst_cased/train.jsonl.gz", "train"),
                Source("sst_cased/dev.jsonl.gz", "train"),
                Source("sst_cased/test.jsonl.gz", "test"),
                Source("yelp_short/train.jsonl.gz", "train"),
                Source("yelp_short/test.jsonl.gz", "test"),
                Source("imdb_short/train.jsonl.gz", "train"),
                Source("imdb_short/test.jsonl.gz", "test"),
            ),
        ),
        LabelPrompt("\nSentiment:", {"negative": " negative", "positive": " positive"}),
        ClassifierTraining(epochs=1.5),
        {"yelp_short/train.jsonl.gz": 6000, "imdb_short/train.jsonl.gz": 5000},
    ),
    "topic": LoraPlan(
        PLANS["topic"],
        LabelPrompt(
            "\nTopic:",
            {"business": " business", "sci-tech": " technology", "sports": " sports", "world": " world"},
        ),
        ClassifierTraining(epochs=2),
        {},
    ),
}


def train_lora_judge(
    plan: LoraPlan, name: str, load: Callable[[], Base], data: Path, out: Path, work: Path
) -> LoraJudge:
    """Train the judge of a plan on the base called `name` in the catalog, and write it to out/<attribute>.

    load: a fresh base each time it is called. Raises ComposerError for a missing or broken file of data.
    """
    rows = plan.rows
    train, tests = held_out(rows, data, adapters_texts(data), plan.most)
    sample = {file: some(own, MEASURED) for file, own in tests.items()}
    folder, base = out / rows.attribute, load()
    log.info("judge of %s: %d rows to train on", rows.attribute, len(train))
    train_classifier(plan.prompt, base, train, plan.training, folder, work / rows.attribute)
    sources = tuple(source.file for source in rows.sources if source.part != "test")
    file = LoraJudgeFile(rows.attribute, plan.prompt, name, base.id, sources, len(train), ())
    judge = LoraJudge(file, load(), folder)
    judge.scores = measure(judge, sample)
    file = replace(file, scores=judge.scores)
    save_judge_file(file, folder)
    (folder / "README.md").write_text(_card(file, plan.training), "utf-8")
    return judge


def _card(file: LoraJudgeFile, training: ClassifierTraining) -> str:
    """The judge's model card."""
    answers = ", ".join(f"*{label}* (`{answer.strip()}`)" for label, answer in file.prompt.answers.items())
    right = "\n".join(f"| {score.file} | {score.rows:,} | {score.accuracy:.1%} |" for score in file.scores)
    return f"""---
base_model: {file.base_id}
library_name: peft
tags: [lora, text-classification, adapter-composer]
---

# Judge of {file.attribute}

A LoRA adapter with which `{file.base_id}` says the {file.attribute} of a text in the token after
`{file.prompt.words.strip()}`: {answers}. The likeliest of these answers is the label. The Adapter Composer
judges generated texts with it (`--lora-judges`); its slider would be of no use.

Trained on {file.trained_on:,} rows of {", ".join(file.sources)}.
No adapter of this project saw them. Rank {training.rank}, alpha {training.alpha:g}, all linear layers,
{training.epochs:g} passes in batches of
{training.batch}, learning rate {training.learning_rate:g} (cosine), seed {training.seed}. At most
{file.prompt.length} tokens of a text are read.

| rows it never saw | how many | right |
|---|---|---|
{right}

Made by `python -m composer judges --lora {file.base} --only {file.attribute} --data FOLDER`.
"""

"""Transformer classifiers as judges, by Hub id or from a folder: from safetensors, without code of theirs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification

from composer.adapters.hub import base_snapshot
from composer.core.errors import ComposerError
from composer.evaluation.judges.ngram_judge import HeldOut
from composer.evaluation.judges.training import PLANS, measure
from composer.model.checkpoints.tokenizer_files import load_tokenizer
from composer.training.data import Row

BATCH = 16
TOKENS = 512
CONFIG_LIMIT = 256_000
# What classifiers call our labels. A label that is none of ours ("neutral") is kept as it is said.
NAMES: Mapping[str, str] = {
    "scitech": "sci-tech",
    "sciencetechnology": "sci-tech",
    "sciencetech": "sci-tech",
    "technology": "sci-tech",
    "sport": "sports",
    "pos": "positive",
    "neg": "negative",
}
AG_NEWS = ("world", "sports", "business", "sci-tech")


@dataclass(frozen=True)
class Classifier:
    """Where a classifier is."""

    attribute: str
    # A Hub id or a folder.
    source: str
    # A commit, or None for the newest.
    revision: str | None = None
    # Its labels by index, where its config says no more than LABEL_0, LABEL_1.
    order: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name in reports; of a folder only its last part."""
        return Path(self.source).name if os.path.isdir(self.source) else self.source


# Those of the field's classifiers that have safetensors, and a tokenizer in files the hub room downloads. The
# first two have them from the Hub's own converter, in a pull request that was never merged: hence the
# revisions. Not tried against the Hub itself.
FIELD = (
    Classifier(
        "sentiment",
        "siebert/sentiment-roberta-large-english",
        "1fb36d08f3ab028c17115446f75c6006b002aa99",
        ("negative", "positive"),
    ),
    Classifier("sentiment", "cardiffnlp/twitter-roberta-base-sentiment-latest", "refs/pr/10"),
    Classifier(
        "topic", "achimoraites/roberta-base_ag_news", "1b032dd959007048545fa888cca5c4e7f4fb291f", AG_NEWS
    ),
)


class TransformerJudge:
    """A loaded classifier. said: the label of each of its outputs."""

    def __init__(self, spec: Classifier, said: Sequence[str], model, tokenizer):
        self.attribute, self.name = spec.attribute, spec.name
        self.labels = PLANS[spec.attribute].labels
        self.scores: tuple[HeldOut, ...] = ()
        self._said, self._model, self._tokenizer = tuple(said), model, tokenizer
        positions = getattr(model.config, "max_position_embeddings", None) or TOKENS
        # RoBERTa's positions start at 2.
        self._length = min(TOKENS, positions - 2)

    def __str__(self) -> str:
        parts = ", ".join(f"{s.file} {s.accuracy:.1%} of {s.rows}" for s in self.scores)
        return (
            f"{self.attribute}, {self.name}: {f'right on {parts}' if parts else 'accuracy not measured here'}"
        )

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The label of each text.

        A class that is none of our labels is returned under the classifier's name.
        """
        return [
            label
            for start in range(0, len(texts), BATCH)
            for label in self._some(texts[start : start + BATCH])
        ]

    @torch.inference_mode()
    def _some(self, texts: Sequence[str]) -> Iterator[str]:
        inputs = self._tokenizer(
            list(texts), truncation=True, max_length=self._length, padding=True, return_tensors="pt"
        ).to(self._model.device)
        best = self._model(**inputs).logits.argmax(dim=-1)  # [B]
        return (self._said[place] for place in best.tolist())


def load_hub_judge(
    spec: Classifier, tests: Mapping[str, Sequence[Row]] | None = None, device: str | None = None
) -> TransformerJudge:
    """Load a classifier, and measure it on `tests`, held-out rows by file, if there are any.

    Raises HubError where the Hub does not give it and ComposerError for anything else.
    """
    labels = PLANS[spec.attribute].labels
    folder = (
        Path(spec.source) if os.path.isdir(spec.source) else base_snapshot(spec.source, spec.revision, False)
    )
    said = _labels(spec, _config(folder, spec.name))
    if missing := [label for label in labels if label not in said]:
        raise ComposerError(
            f"The classifier {spec.name} does not say {missing[0]}; "
            f"choose one for {spec.attribute} with the labels {', '.join(labels)}."
        )
    try:
        judge = _load(spec, folder, said, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError, SafetensorError) as fault:
        raise ComposerError(
            f"The classifier {spec.name} could not be loaded; "
            "choose one with a tokenizer that fits it and all its weights in safetensors."
        ) from fault
    judge.scores = measure(judge, tests or {})
    return judge


def _load(spec: Classifier, folder: Path, said: Sequence[str], device: str) -> TransformerJudge:
    # From a folder in both cases, so that no revision can change in between.
    tokenizer = load_tokenizer(folder)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    # transformers would draw what is missing at random: a model without its head would judge by chance.
    if info["missing_keys"] or model.config.num_labels != len(said):
        raise ValueError("weights or labels are missing")
    judge = TransformerJudge(spec, said, model.eval().requires_grad_(False).to(device), tokenizer)
    judge(["A tokenizer of another model shows at once?"])
    return judge


def parse_classifiers(text: str) -> tuple[Classifier, ...]:
    """ "sentiment=owner/name@commit,topic=FOLDER" as classifiers; an empty text is FIELD."""
    found = tuple(_classifier(part.strip()) for part in text.split(",") if part.strip())
    names = [(each.attribute, each.name) for each in found]
    if twice := [name for attribute, name in names if names.count((attribute, name)) > 1]:
        raise ComposerError(
            f"--hub-judges has two classifiers called {twice[0][:60]!r}; rename one or drop it."
        )
    return found or FIELD


def _classifier(text: str) -> Classifier:
    attribute, _, source = text.partition("=")
    if attribute not in PLANS or not source:
        raise ComposerError(
            f"Write --hub-judges as ATTRIBUTE=ID or FOLDER, comma-separated, for {' or '.join(PLANS)}; "
            f"{text[:60]!r} is not."
        )
    known = next((each for each in FIELD if source == each.source and attribute == each.attribute), None)
    if known or os.path.isdir(source):
        return known or Classifier(attribute, source)
    repo, _, revision = source.partition("@")
    return Classifier(attribute, repo, revision or None)


def _config(folder: Path, name: str) -> dict:
    fault = ComposerError(f"The classifier {name} has no readable config.json; choose another one.")
    configs = {}
    for file in ("config.json", "tokenizer_config.json"):
        path = folder / file
        if file == "tokenizer_config.json" and not path.exists():
            continue
        try:
            if path.stat().st_size > CONFIG_LIMIT:
                raise fault
            configs[file] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            raise fault from None
        if not isinstance(configs[file], dict):
            raise fault
        # transformers would ask on the terminal whether to run it.
        if "auto_map" in configs[file]:
            raise ComposerError(
                f"The classifier {name} needs code of its own, which is never run; choose another one."
            )
    return configs["config.json"]


def _labels(spec: Classifier, config: Mapping) -> list[str]:
    """The label of each of the classifier's outputs, ours where it means one of ours."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not all(str(place) in names for place in range(len(names))):
        # transformers' own default for a config without names: two labels.
        names = {str(place): f"LABEL_{place}" for place in range(len(spec.order) or 2)}
    said = [str(names[str(place)])[:60] for place in range(len(names))]
    if spec.order and all(re.fullmatch(r"LABEL_\d+", name) for name in said) and len(said) == len(spec.order):
        return list(spec.order)
    return [_ours(spec.attribute, name) for name in said]


def _ours(attribute: str, name: str) -> str:
    letters = re.sub(r"[^a-z]", "", name.lower())
    return next(
        (label for label in PLANS[attribute].labels if label == letters), NAMES.get(letters, name.lower())
    )

"""A judge that is a language model with a LoRA adapter: asked about a text, it answers with one word.

It reads words in their order, which a judge of n-grams does not. Its adapter is a plain PEFT folder; beside
it lies judge.json with the prompt, the base's name in the catalog, and what it got right of rows it never
saw. The base should be of another family than the one whose texts it judges.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.errors import ComposerError
from composer.evaluation.judges.ngram_judge import HeldOut
from composer.evaluation.judges.serialization import held_out, whole_number, word
from composer.model.loading import Base, load_base
from composer.training.classifier import LabelPrompt
from composer.training.label_reader import LabelReader
from composer.training.precision import faster_in_bfloat16

FILE = "judge.json"
FORMAT = 1
LIMIT = 64_000


@dataclass(frozen=True)
class LoraJudgeFile:
    """What judge.json says."""

    attribute: str
    prompt: LabelPrompt
    # The base's name in the catalog, and its id.
    base: str
    base_id: str
    sources: tuple[str, ...]
    trained_on: int
    scores: tuple[HeldOut, ...]


class LoraJudge:
    """A loaded judge. Its base's Linear layers are wrapped."""

    def __init__(self, file: LoraJudgeFile, base: Base, folder: Path):
        self.attribute, self.labels, self.scores = file.attribute, file.prompt.labels, file.scores
        self.name = f"{file.attribute} ({file.base})"
        self.trained_on = file.trained_on
        self._reader = LabelReader(file.prompt, base, folder)

    def __str__(self) -> str:
        parts = ", ".join(f"{s.file} {s.accuracy:.1%} of {s.rows}" for s in self.scores)
        return f"{self.name}: right on {parts}"

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The label of each text."""
        return self._reader.labels_of(texts)

    def scored(self, texts: Sequence[str]) -> torch.Tensor:
        """The log probability of each label, [texts, labels] float32."""
        return self._reader(texts)


def load_lora_judges(folder: Path, catalog: Catalog, device: str | None = None) -> tuple[LoraJudge, ...]:
    """Every such judge of a folder, each a folder of its own, by attribute.

    Raises ComposerError for a folder without one, and where a judge's base is not to be had.
    """
    folders = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
    if not folders:
        raise ComposerError(
            "There is no LoRA judge in that folder; make some with: "
            "python -m composer judges --lora BASE --data FOLDER"
        )
    return tuple(_load(own, catalog, device) for own in folders)


def reading_base(spec: BaseSpec, device: torch.device) -> BaseSpec:
    """The base as a judge reads with it: in bfloat16 where that is faster."""
    return replace(spec, dtype="bfloat16") if faster_in_bfloat16(device) else spec


def _load(folder: Path, catalog: Catalog, device: str | None) -> LoraJudge:
    file = read_judge_file(folder)
    spec = catalog.base(file.base)
    if spec.id != file.base_id:
        raise ComposerError(
            f"The judge of {file.attribute} was trained on {file.base_id}, but the catalog's {file.base} is "
            f"{spec.id}; make it again with: python -m composer judges --lora {file.base} --data FOLDER"
        )
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return LoraJudge(file, load_base(reading_base(spec, torch.device(chosen)), chosen), folder)


def save_judge_file(file: LoraJudgeFile, folder: Path) -> None:
    """Write judge.json into the adapter's folder."""
    header = {
        "format": FORMAT,
        "attribute": file.attribute,
        "prompt": file.prompt.words,
        "answers": dict(file.prompt.answers),
        "length": file.prompt.length,
        "base": file.base,
        "base_id": file.base_id,
        "sources": file.sources,
        "trained_on": file.trained_on,
        "held_out": [asdict(score) for score in file.scores],
    }
    (folder / FILE).write_text(json.dumps(header, indent=1) + "\n", "utf-8")


def read_judge_file(folder: Path) -> LoraJudgeFile:
    """Raises ComposerError for a folder without a judge of this version."""
    try:
        path = folder / FILE
        if path.stat().st_size > LIMIT:
            raise ValueError("too large")
        header = json.loads(path.read_text("utf-8"))
        if header["format"] != FORMAT:
            raise ValueError("another format")
        answers = {word(label): str(answer)[:40] for label, answer in header["answers"].items()}
        if not 2 <= len(answers) <= 64:
            raise ValueError("labels")
        prompt = LabelPrompt(str(header["prompt"])[:200], answers, whole_number(header["length"], 1, 2048))
        return LoraJudgeFile(
            word(header["attribute"]),
            prompt,
            word(header["base"]),
            word(header["base_id"]),
            tuple(word(source) for source in header["sources"]),
            whole_number(header["trained_on"], 1, 10**9),
            tuple(held_out(**score) for score in header["held_out"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise ComposerError(
            f"The judge {folder.name[:60]!r} is damaged or of another version; "
            "make it again with: python -m composer judges --lora BASE --data FOLDER"
        ) from fault

"""A judge as one safetensors file: two arrays, and in its header the rest as JSON. Nothing is unpickled."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from composer.core.assets import ASSETS
from composer.core.errors import ComposerError
from composer.evaluation.judges.ngram_judge import Grams, HeldOut, NgramJudge

BUNDLED = ASSETS / "judges"
SUFFIX = ".safetensors"
# Counts up when what the numbers mean changes, the tokens of composer.evaluation.judges.ngram_judge included.
FORMAT = 1
LIMIT = 32_000_000
MOST_COLUMNS, LONGEST_GRAM, MOST_LABELS = 2**20, 8, 64


def save_judges(judges: Sequence[NgramJudge], folder: Path) -> tuple[Path, ...]:
    """One file per judge, named after its attribute. Raises ComposerError where none can be written."""
    paths = tuple(folder / f"{judge.attribute}{SUFFIX}" for judge in judges)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for judge, path in zip(judges, paths, strict=True):
            arrays = {"weights": judge.weights, "bias": judge.bias}
            # Under another name first: a run that is cut off must not leave half a judge.
            part = path.with_suffix(".part")
            part.write_bytes(save(arrays, metadata={"judge": json.dumps(_header(judge))}))
            part.replace(path)
    except (OSError, SafetensorError) as fault:
        raise ComposerError(
            "The judges cannot be written there; choose another folder with --out."
        ) from fault
    return paths


def load_judges(folder: Path = BUNDLED) -> tuple[NgramJudge, ...]:
    """Every judge of a folder, by attribute. Raises ComposerError for a folder without one."""
    paths = sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())
    if not paths:
        raise ComposerError(
            "There is no judge in that folder; make some with: python -m composer judges --data FOLDER"
        )
    return tuple(load_judge(path) for path in paths)


def load_judge(path: Path) -> NgramJudge:
    """One stored judge; it gives exactly the verdicts it gave when it was saved.

    Raises ComposerError for a file that is damaged, of another format, or no judge.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise ValueError("too large")
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {})["judge"])
            weights, bias = file.get_tensor("weights"), file.get_tensor("bias")
        judge = _judge(header, weights, bias)
        if judge.attribute != path.stem:
            raise ValueError("two files of a folder could claim the same attribute")
        return judge
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as fault:
        raise ComposerError(
            f"The judge {path.stem[:60]!r} is damaged or of another version; "
            "make it again with: python -m composer judges --data FOLDER"
        ) from fault


def _header(judge: NgramJudge) -> dict:
    return {
        "format": FORMAT,
        "attribute": judge.attribute,
        "labels": judge.labels,
        "grams": [asdict(kind) for kind in judge.grams],
        "sources": judge.sources,
        "trained_on": judge.trained_on,
        "held_out": [asdict(score) for score in judge.scores],
    }


def _judge(header: dict, weights: np.ndarray, bias: np.ndarray) -> NgramJudge:
    if header["format"] != FORMAT:
        raise ValueError("another format")
    labels = tuple(word(label) for label in header["labels"])
    grams = tuple(_grams(**kind) for kind in header["grams"])
    scores = tuple(held_out(**score) for score in header["held_out"])
    rows = len(labels) if len(labels) > 2 else 1
    fits = (
        2 <= len(labels) <= MOST_LABELS
        and sorted(set(labels)) == list(labels)
        and 1 <= len(grams) <= 4
        and 1 <= len(scores) <= MOST_LABELS
        and (weights.dtype, weights.shape) == (np.float16, (rows, sum(kind.columns for kind in grams)))
        and (bias.dtype, bias.shape) == (np.float32, (rows,))
        and bool(np.isfinite(weights).all() and np.isfinite(bias).all())
    )
    if not fits:
        raise ValueError("the arrays and the header say different things")
    sources = tuple(word(source) for source in header["sources"])
    trained_on = whole_number(header["trained_on"], 1, 10**9)
    return NgramJudge(word(header["attribute"]), labels, grams, weights, bias, sources, trained_on, scores)


def _grams(analyzer: str, shortest: int, longest: int, columns: int) -> Grams:
    if analyzer not in ("word", "char_wb"):
        raise ValueError("an unknown analyzer")
    longest = whole_number(longest, 1, LONGEST_GRAM)
    return Grams(
        analyzer, whole_number(shortest, 1, longest), longest, whole_number(columns, 1, MOST_COLUMNS)
    )


def held_out(file: str, rows: int, accuracy: float) -> HeldOut:
    if not (isinstance(accuracy, int | float) and math.isfinite(accuracy) and 0 <= accuracy <= 1):
        raise ValueError("no accuracy")
    return HeldOut(word(file), whole_number(rows, 1, 10**9), float(accuracy))


def word(value: object) -> str:
    """These are printed and written into Markdown, so they hold nothing that could mean something there."""
    if not (
        isinstance(value, str) and 0 < len(value) <= 80 and all(c.isalnum() or c in "._/-" for c in value)
    ):
        raise ValueError("no name")
    return value


def whole_number(value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError("no whole number in range")
    return value

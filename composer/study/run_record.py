"""A run of the study on one base as a file: its table of cells, to judge and join it without the base."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.core.errors import ComposerError
from composer.study.design.plan import Cell, Missing
from composer.study.design.targets import Target

FILE, RERUN = "run.json.gz", "rerun.json.gz"
FORMAT = 1


@dataclass(frozen=True)
class StoredSetting:
    """A setting of an arm as plain values."""

    arm: str
    name: str
    constants: Mapping[str, object]
    strength: float
    # False for a chosen one that is not fluent, as nothing tried was.
    fluent: bool = True


@dataclass(frozen=True)
class RunRecord:
    """What was asked for on one base. The texts, their scores and verdicts lie beside it."""

    # DEVELOPMENT or REPORT.
    stage: str
    # The base's Hub id, its label, and its quantization ("none", "nf4", "int8").
    base: str
    label: str
    precision: str
    module_seeds: int
    # Texts at each place, targets of each prompt (None: all), and the sampling's fields.
    seeds: int
    per_prompt: int | None
    sampling: Mapping[str, object]
    prompts: tuple[str, ...]
    settings: tuple[StoredSetting, ...]
    cells: tuple[Cell, ...]
    missing: tuple[Missing, ...]
    # AlphaProfiles as plain values.
    patterns: tuple[Mapping, ...]
    notes: tuple[str, ...]
    # Of each module seed what identifies its modules; none in a run of an earlier version.
    trainings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """ "SmolLM2 135M, full"; a label that says the precision itself is the title."""
        name, precision = self.label or self.base, "full" if self.precision == "none" else self.precision
        return name if precision in name else f"{name}, {precision}"


def write_run(record: RunRecord, path: Path) -> None:
    """Raises ComposerError where the file cannot be written."""
    targets = list(dict.fromkeys(cell.target for cell in record.cells))
    settings = {(each.arm, each.name, each.strength): place for place, each in enumerate(record.settings)}
    prompts = {prompt: place for place, prompt in enumerate(record.prompts)}
    places = {target: place for place, target in enumerate(targets)}
    rows = [
        (
            settings[cell.arm, cell.setting, cell.strength],
            places[cell.target],
            prompts[cell.prompt],
            cell.seed,
            cell.module_seed,
            cell.key,
        )
        for cell in record.cells
    ]
    plain = {name: value for name, value in vars(record).items() if name != "cells"}
    plain |= {"settings": [asdict(each) for each in record.settings]}
    plain |= {"missing": [asdict(each) for each in record.missing]}
    answer = {"format": FORMAT, **plain, "targets": [asdict(target) for target in targets], "cells": rows}
    text = json.dumps(answer, allow_nan=False) + "\n"
    fresh = path.with_name(f"{path.name}.part")
    try:
        # The same run makes the same bytes, whenever that is.
        fresh.write_bytes(gzip.compress(text.encode(), mtime=0))
        os.replace(fresh, path)
    except OSError as fault:
        raise ComposerError("The output folder cannot be used; choose another with --out.") from fault


def read_run(path: Path) -> RunRecord:
    """Raises ComposerError for a folder without a run, and for a file that is damaged."""
    if not path.is_file():
        raise ComposerError(
            "There is no finished run in that folder; make one with: python -m composer study --stage report"
        )
    try:
        stored = json.loads(gzip.decompress(path.read_bytes()))
        if stored["format"] != FORMAT:
            raise ValueError("another format")
        return _record(stored)
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as fault:
        raise ComposerError(
            f"{path.name} in the run's folder is damaged; make it again with --stage report."
        ) from fault


def _record(stored: Mapping) -> RunRecord:
    targets = [_target(each) for each in stored["targets"]]
    settings = [StoredSetting(**each) for each in stored["settings"]]
    prompts = tuple(map(str, stored["prompts"]))
    trainings = tuple(map(str, stored.get("trainings", ())))
    if trainings and len(trainings) != int(stored["module_seeds"]):
        raise ValueError("other trainings")
    cells = tuple(_cell(row, settings, targets, prompts) for row in stored["cells"])
    missing = tuple(
        Missing(each["arm"], tuple(each["targets"]), each["reason"]) for each in stored["missing"]
    )
    return RunRecord(
        str(stored["stage"]),
        str(stored["base"]),
        str(stored["label"]),
        str(stored["precision"]),
        int(stored["module_seeds"]),
        int(stored["seeds"]),
        None if stored["per_prompt"] is None else int(stored["per_prompt"]),
        dict(stored["sampling"]),
        prompts,
        tuple(settings),
        cells,
        missing,
        tuple(stored["patterns"]),
        tuple(map(str, stored["notes"])),
        trainings,
    )


def _target(stored: Mapping) -> Target:
    wanted = tuple((str(attribute), str(label)) for attribute, label in stored["wanted"])
    return Target(str(stored["name"]), wanted)


def _cell(
    row: Sequence, settings: Sequence[StoredSetting], targets: Sequence[Target], prompts: Sequence[str]
) -> Cell:
    setting, target, prompt, seed, module_seed, key = row
    own = settings[setting]
    return Cell(
        own.arm,
        targets[target],
        float(own.strength),
        prompts[prompt],
        int(seed),
        str(key),
        int(module_seed),
        own.name,
    )

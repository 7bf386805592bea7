"""Runs of the real engine kept as files, so that a page shows one before anything was generated.

`python -m composer record` makes them, for the catalog's default base and with --base for another. A
recording is shown only for the base and the composition that it was made with.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from composer.analysis.next_token import NextTokens
from composer.analysis.text_reading import TextReading
from composer.analysis.token_attribution import Attribution
from composer.core.assets import ASSETS
from composer.core.catalog_types import BaseSpec, Example
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.jsonable import to_jsonable
from composer.core.results import Fusion, Step
from composer.engine.engine import Engine
from composer.methods import fuse
from composer.ui.runners.base import Runner
from composer.ui.validation import Request

log = logging.getLogger(__name__)

RECORDINGS = ASSETS / "recordings"
VERSION = 1
# The lane of a merged adapter; no adapter can be called so.
MERGED = "(merged)"
# Digits that a picture and a figure can show.
DIGITS = 4


@dataclass(frozen=True)
class Recording:
    """All that a run of the page brought."""

    base: str
    # The loaded adapters that its numbers name, and after them the merged adapter if there was one.
    lanes: tuple[str, ...]
    request: Request
    steps: tuple[Step, ...]
    fusion: Fusion
    reading: TextReading
    # Of the prompt; None for a method that merges adapters.
    next_tokens: NextTokens | None
    # The machine that made it.
    machine: str

    def among(self, names: Sequence[str]) -> Recording | None:
        """The recording over the adapters that are loaded now; None where one of its own is missing."""
        own = [lane for lane in self.lanes if lane != MERGED]
        if not set(own) <= set(names):
            return None
        layers = len(self.fusion.kl)
        extra = len(self.lanes) - len(own)
        places = [*(names.index(lane) for lane in own), *range(len(names), len(names) + extra)]

        def spread(contribution: np.ndarray) -> np.ndarray:
            whole = np.zeros((layers, len(names) + extra), np.float32)  # [L, N]
            whole[:, places] = contribution
            return whole

        steps = tuple(replace(each, contribution=spread(each.contribution)) for each in self.steps)
        kl = np.zeros((layers, len(names)), np.float32)  # [L, N]
        kl[:, places[: len(own)]] = self.fusion.kl
        return replace(self, lanes=(*names, *(MERGED,) * extra), steps=steps, fusion=fuse(kl))


def record(runner: Runner, request: Request, machine: str) -> Recording:
    """Run a request as the page does and keep what comes. Raises ComposerError as the run does."""
    names = runner.engine.names
    steps, fusion, reading = [], None, None
    for event in runner.run(request, names):
        if isinstance(event, Step):
            steps.append(event)
        elif isinstance(event, Fusion):
            fusion = event
        elif isinstance(event, TextReading):
            reading = event
    if fusion is None or reading is None:
        raise ComposerError("This run cannot be recorded: its weights change within the text.")
    try:
        following = runner.next_tokens(request, names)
    except ComposerError:
        following = None
    merged = steps[0].contribution.shape[1] - len(names)
    lanes = (*names, *(MERGED,) * merged)
    return Recording(runner.engine.base.id, lanes, request, tuple(steps), fusion, reading, following, machine)


def file_name(label: str) -> str:
    """A preset's file: "A mood and a topic" -> "a-mood-and-a-topic.json"."""
    return f"{slug(label)}.json"


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def folder_of(base: BaseSpec, default: str) -> Path:
    """Where a base's recordings lie: RECORDINGS for the catalog's default, a folder in it for another."""
    return RECORDINGS if base.name == default else RECORDINGS / slug(base.name)


def save_recording(recording: Recording, path: Path) -> None:
    """Write it as JSON with numbers of a few digits; only lanes that contribute have contributions."""
    contribution = np.stack([step.contribution for step in recording.steps])  # [T, L, N]
    used = np.flatnonzero(contribution.any(axis=(0, 1)))
    document = {
        "version": VERSION,
        "base": recording.base,
        "machine": recording.machine,
        "prompt": recording.request.prompt,
        "composition": recording.request.composition.as_dict(),
        "sampling": asdict(recording.request.sampling),
        "tokens": [step.token for step in recording.steps],
        "pieces": [step.piece for step in recording.steps],
        "seconds": [round(step.seconds, 3) for step in recording.steps],
        "finish": recording.steps[-1].finish,
        "lanes": recording.lanes,
        "kl": _short(recording.fusion.kl),
        "contributing": used.tolist(),
        "contribution": _packed(contribution[:, :, used]),
        "reading": _reading_as_dict(recording.reading),
        "next": None if recording.next_tokens is None else _short_fields(recording.next_tokens),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_jsonable(document), ensure_ascii=False, separators=(",", ":"))
    path.write_text(f"{text}\n", "utf-8")


def load_recordings(
    folder: Path, engine: Engine, compositions: Sequence[Composition], examples: Sequence[Example]
) -> tuple[Recording | None, ...]:
    """Each example's recording; None where there is none for this base and composition."""
    return tuple(
        _load(folder / file_name(example.label), engine, composition, example) if example.label else None
        for example, composition in zip(examples, compositions, strict=True)
    )


def _load(path: Path, engine: Engine, composition: Composition, example: Example) -> Recording | None:
    if not path.is_file():
        return None
    try:
        recording = read_recording(path)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as fault:
        log.warning("the recording %s cannot be read (%s); the page goes without it", path.name, fault)
        return None
    request = recording.request
    asked = (engine.base.id, example.prompt, composition, example.seed)
    if (recording.base, request.prompt, request.composition, request.sampling.seed) != asked:
        return None
    return recording.among(engine.names)


def read_recording(path: Path) -> Recording:
    """The recording of a file. Raises ValueError, KeyError or TypeError for another file."""
    document = json.loads(path.read_text("utf-8"))
    if document["version"] != VERSION:
        raise ValueError("another version")
    lanes, layers, pieces = document["lanes"], len(document["kl"]), document["pieces"]
    contribution = np.zeros((len(pieces), layers, len(lanes)), np.float32)  # [T, L, N]
    used = document["contributing"]
    contribution[:, :, used] = _unpacked(document["contribution"], (len(pieces), layers, len(used)))
    kl = np.array(document["kl"], np.float32)  # [L, N]
    steps, text = [], ""
    for index, piece in enumerate(pieces):
        text += piece
        finish = document["finish"] if index == len(pieces) - 1 else None
        seconds = document["seconds"][index]
        token = document["tokens"][index]
        steps.append(Step(0, index, token, piece, text, contribution[index], seconds, finish))
    request = Request(
        document["prompt"], Composition(**document["composition"]), Sampling(**document["sampling"])
    )
    following = None if document["next"] is None else _next_tokens(document["next"])
    reading = _reading(document["reading"])
    return Recording(
        document["base"],
        tuple(lanes),
        request,
        tuple(steps),
        fuse(kl),
        reading,
        following,
        document["machine"],
    )


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<f2").tobytes()).decode("ascii")


def _unpacked(text: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f2").reshape(shape).astype(np.float32)


def _short(values: np.ndarray) -> list:
    """Nested lists of numbers with a few digits."""
    return np.vectorize(lambda value: float(f"{value:.{DIGITS}g}"), otypes=[float])(values).tolist()


def _short_fields(values: object) -> dict[str, object]:
    """A dataclass of arrays and plain values."""
    plain = {each.name: getattr(values, each.name) for each in fields(values)}
    return {name: _short(each) if isinstance(each, np.ndarray) else each for name, each in plain.items()}


def _next_tokens(values: Mapping) -> NextTokens:
    arrays = {name: np.array(values[name], np.float64) for name in ("base", "composed")}
    push = np.array(values["push"], np.float64).reshape(len(values["adapters"]), len(values["tokens"]))
    lists = {name: tuple(values[name]) for name in ("tokens", "pieces", "adapters")}
    return NextTokens(**lists, **arrays, push=push, kl=float(values["kl"]))


def _reading_as_dict(reading: TextReading) -> dict[str, object]:
    return {**_short_fields(reading), "attribution": _short_fields(reading.attribution)}


def _reading(values: Mapping) -> TextReading:
    own, count = values["attribution"], len(values["adapters"])
    tokens, words = np.array(values["likeliest"], int).shape
    attribution = Attribution(
        np.array(own["base"]), np.array(own["alone"]).reshape(count, tokens), np.array(own["composed"])
    )
    return TextReading(
        tuple(values["adapters"]),
        attribution,
        np.array(values["likeliest"], int),
        tuple(tuple(each) for each in values["pieces"]),
        np.array(values["base"]),
        np.array(values["composed"]),
        np.array(values["push"]).reshape(count, tokens, words),
    )

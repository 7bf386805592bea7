"""Finished texts, kept as JSON Lines so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.spec import ComposerError

BASE = "base"


@dataclass(frozen=True)
class Task:
    """One text to make: whose (an adapter's name, or BASE), from which prompt, with which seed."""

    subject: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Text:
    """One text made.

    key: what it was made from, all of it. perplexity: of the continuation under the base.
    """

    key: str
    subject: str
    prompt: str
    seed: int
    continuation: str
    perplexity: float | None


def digest(*parts: object) -> str:
    """A key that changes when any part does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


class Records:
    """The file of texts made so far. Only ever appended to."""

    def __init__(self, path: Path):
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text("utf-8").split("\n") if path.is_file() else [""]
            if lines.pop():
                # The run before was cut off inside a line: drop it, or the next would be glued to it.
                path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
            self._texts = {text.key: text for text in (Text(**json.loads(line)) for line in lines)}
        except OSError as fault:
            raise ComposerError("The output folder cannot be used; choose another with --out.") from fault
        except (ValueError, TypeError) as fault:
            raise ComposerError(
                f"{path.name} in the output folder is damaged; delete it and run again."
            ) from fault

    def get(self, key: str) -> Text | None:
        return self._texts.get(key)

    def add(self, texts: Iterable[Text]) -> None:
        texts = tuple(texts)
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(text)) + "\n" for text in texts)
        self._texts.update((text.key, text) for text in texts)

"""What each judge says of each stored text, kept beside the texts: judging is apart from generation."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.core.errors import ComposerError
from composer.evaluation.generation import GeneratedText
from composer.evaluation.judges.ngram_judge import HeldOut, Judge
from composer.evaluation.records import Records, digest

# Texts judged between two writes: what a killed run loses at most.
TOGETHER = 256
_NOT_WORD = re.compile(r"\W+")


@dataclass(frozen=True)
class TextVerdict:
    """A judge's label of one text. The field names are those of stored records."""

    # The text's.
    key: str
    # Of the words that were judged, so that a text made again is judged again.
    words: str
    label: str


@dataclass(frozen=True)
class JudgeCard:
    """What is known of a judge without having it."""

    attribute: str
    name: str
    labels: tuple[str, ...]
    scores: tuple[HeldOut, ...]

    @property
    def id(self) -> str:
        """Differs between two trainings of a judge, as far as their held-out accuracy does."""
        return f"{_NOT_WORD.sub('-', self.attribute)[:40]}-{digest(asdict(self))[:10]}"

    @property
    def rows(self) -> int:
        return sum(score.rows for score in self.scores)

    @property
    def accuracy(self) -> float | None:
        """Share of all held-out rows that it gets right; None where that was not measured."""
        return sum(score.accuracy * score.rows for score in self.scores) / self.rows if self.rows else None


class Verdicts:
    """The folder of verdicts beside the texts: a list of judges, and a file of records for each.

    Raises ComposerError for a folder that cannot be used and for files that hold something else.
    """

    def __init__(self, folder: Path):
        self._folder, self._records = folder / "judged", dict[str, Records[TextVerdict]]()
        self._cards = _read(self._folder / "judges.json")

    @property
    def judges(self) -> tuple[JudgeCard, ...]:
        """Of two trainings of a judge only the later."""
        return self._cards

    def labels(self, judge: JudgeCard, texts: Sequence[GeneratedText]) -> list[str | None]:
        """The stored label of each text; None for one that it has not judged."""
        records = self._of(judge)
        found = (records.get(text.key) for text in texts)
        return [
            record.label if record and record.words == _words(text) else None
            for record, text in zip(found, texts, strict=True)
        ]

    def add(
        self,
        judge: Judge,
        texts: Sequence[GeneratedText],
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Has the judge read the texts that it has not judged yet, prompt and continuation together.

        progress: receives how many texts were judged since its last call.
        """
        card = card_of(judge)
        self._note(card)
        known = self.labels(card, texts)
        todo = [text for text, label in zip(texts, known, strict=True) if label is None]
        for start in range(0, len(todo), TOGETHER):
            some = todo[start : start + TOGETHER]
            said = judge([text.prompt + text.continuation for text in some])
            self._of(card).add(
                TextVerdict(text.key, _words(text), label) for text, label in zip(some, said, strict=True)
            )
            progress(len(some))

    def take(self, other: Verdicts, keys: Iterable[str]) -> None:
        """Copies what all judges of another folder say of the texts with these keys."""
        keys = tuple(keys)
        for card in other.judges:
            self._note(card)
            self._of(card).add(verdict for key in keys if (verdict := other._of(card).get(key)))

    def pack(self) -> None:
        """Compresses every judge's records. A run continues from compressed files too."""
        for card in self._cards:
            self._of(card).pack()

    def _of(self, judge: JudgeCard) -> Records[TextVerdict]:
        if judge.id not in self._records:
            self._records[judge.id] = Records(self._folder / f"{judge.id}.jsonl", TextVerdict)
        return self._records[judge.id]

    def _note(self, judge: JudgeCard) -> None:
        same = (judge.attribute, judge.name)
        if judge in self._cards:
            return
        others = tuple(card for card in self._cards if (card.attribute, card.name) != same)
        self._cards = (*others, judge)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = self._folder / "judges.json.part"
            fresh.write_text(json.dumps([asdict(card) for card in self._cards]) + "\n", "utf-8")
            os.replace(fresh, self._folder / "judges.json")
        except OSError as fault:
            raise ComposerError("The output folder cannot be used; choose another with --out.") from fault


def card_of(judge: Judge) -> JudgeCard:
    return JudgeCard(judge.attribute, judge.name, tuple(judge.labels), tuple(judge.scores))


def _words(text: GeneratedText) -> str:
    return digest(text.prompt, text.continuation)[:12]


def _read(path: Path) -> tuple[JudgeCard, ...]:
    if not path.is_file():
        return ()
    try:
        return tuple(_card(each) for each in json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as fault:
        raise ComposerError(
            "judged/judges.json in the output folder is damaged; delete the folder judged and judge again."
        ) from fault


def _card(stored: Mapping) -> JudgeCard:
    scores = tuple(HeldOut(**score) for score in stored["scores"])
    return JudgeCard(str(stored["attribute"]), str(stored["name"]), tuple(stored["labels"]), scores)

"""A study's folder: the texts made so far and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from composer.evaluation.records import Records
from composer.study.design.plan import GenerationJob
from composer.study.generation.worker import GeneratedText, Score

# What makes texts of units and scores for texts: the engine here, or many elsewhere.
Worker = Callable[[Sequence[GenerationJob], Sequence[GeneratedText]], Iterator[GeneratedText | Score]]


class Store:
    """Two files of records. Each result is on disk before the next is waited for."""

    def __init__(self, folder: Path):
        self._texts = Records(folder / "texts.jsonl", GeneratedText)
        self._scores = Records(folder / "scores.jsonl", Score)

    def text(self, key: str) -> GeneratedText | None:
        """The text, or the fault it last ended with; None if nobody tried."""
        return self._texts.get(key)

    def perplexity(self, key: str) -> float | None:
        score = self._scores.get(key)
        return score.perplexity if score else None

    def made(self, units: Iterable[GenerationJob]) -> list[GeneratedText]:
        """The units' texts that are there."""
        found = (self.text(unit.key) for unit in units)
        return [text for text in found if text and text.fault is None]

    def run_pending(
        self,
        units: Sequence[GenerationJob],
        worker: Worker,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Have the worker do what is not done yet; what failed before is tried again.

        progress is told how many texts became ready, made or given up.
        """
        made = self.made(units)
        done = {text.key for text in made}
        wanted = {unit.key for unit in units if unit.scored}
        unscored = [text for text in made if text.key in wanted and self._scores.get(text.key) is None]
        for result in worker([unit for unit in units if unit.key not in done], unscored):
            if isinstance(result, Score):
                self._scores.add([result])
            else:
                self._texts.add([result])
                progress(1)

    def pack(self) -> None:
        """Keep everything in compressed files, which a run goes on from as it does from the others."""
        self._texts.pack()
        self._scores.pack()

    def faults(self, units: Iterable[GenerationJob]) -> dict[str, str]:
        """Key -> sentence, of the units that could not be made."""
        found = {unit.key: self.text(unit.key) for unit in units}
        return {key: text.fault for key, text in found.items() if text and text.fault}

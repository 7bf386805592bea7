"""A folder of generated texts and their scores, which an interrupted run continues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from composer.evaluation.generation import GeneratedText, GenerationJob, Score
from composer.evaluation.records import Records

# Generates texts for jobs and scores finished texts: the engine of this process, or workers elsewhere.
Worker = Callable[[Sequence[GenerationJob], Sequence[GeneratedText]], Iterator[GeneratedText | Score]]


class Store:
    """Two files of records. Each result is on disk before the next one is awaited."""

    def __init__(self, folder: Path):
        self._texts = Records(folder / "texts.jsonl", GeneratedText)
        self._scores = Records(folder / "scores.jsonl", Score)

    def text(self, key: str) -> GeneratedText | None:
        """The text, or the fault of the last attempt; None if there was no attempt."""
        return self._texts.get(key)

    def perplexity(self, key: str) -> float | None:
        score = self._scores.get(key)
        return score.perplexity if score else None

    def finished(self, jobs: Iterable[GenerationJob]) -> list[GeneratedText]:
        """The jobs' texts that are there."""
        found = (self.text(job.key) for job in jobs)
        return [text for text in found if text and text.fault is None]

    def run_pending(
        self,
        jobs: Sequence[GenerationJob],
        worker: Worker,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Has the worker do what is not done yet. What failed before is tried again.

        progress: receives how many texts were finished or given up since its last call.
        """
        finished = self.finished(jobs)
        done = {text.key for text in finished}
        unscored = [text for text in finished if self._scores.get(text.key) is None]
        for result in worker([job for job in jobs if job.key not in done], unscored):
            if isinstance(result, Score):
                self._scores.add([result])
            else:
                self._texts.add([result])
                progress(1)

    def take(self, other: Store, keys: Iterable[str]) -> None:
        """Copies another store's texts and scores of these keys."""
        keys = tuple(keys)
        self._texts.add(text for key in keys if (text := other.text(key)))
        self._scores.add(score for key in keys if (score := other._scores.get(key)))

    def pack(self) -> None:
        """Compresses both files. A run continues from compressed files too."""
        self._texts.pack()
        self._scores.pack()

    def faults(self, jobs: Iterable[GenerationJob]) -> dict[str, str]:
        """Key -> sentence, of the jobs that failed."""
        found = {job.key: self.text(job.key) for job in jobs}
        return {key: text.fault for key, text in found.items() if text and text.fault}

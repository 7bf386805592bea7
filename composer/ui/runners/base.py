"""The interface between the page and an engine: texts, fusion weights, one more adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from composer.analysis.next_token import NextTokens
from composer.analysis.text_reading import TextReading
from composer.core.catalog_types import FitReport
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.engine.engine import Engine
from composer.engine.resolve import requires_materialization
from composer.engine.scheduler import QueueUpdate
from composer.ui.validation import Request

Added = tuple[tuple[str, str, str | None], ...]  # (adapter name, repo or folder, commit)


@dataclass(frozen=True)
class MergeStarted:
    """A merge for this text has begun, which takes a while."""


Left = Callable[[], bool]
RunEvent = Fusion | Step | QueueUpdate | MergeStarted | TextReading | None


class Withdrawn(Exception):
    """The answer is no longer wanted, and its work had not begun."""


def never() -> bool:
    """Nobody has left."""
    return False


class Runner(ABC):
    """The engine behind the page.

    limit: how many generations Gradio may let in at once; None: all, the runner itself has them wait.
    """

    limit: int | None = None

    def __init__(self, engine: Engine):
        self.engine = engine
        self.catalog_names = tuple(engine.names)
        self._added: Added = ()

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the adapters that visitors added, in order."""
        return tuple(name for name, _, _ in self._added)

    def add(self, source: str) -> FitReport:
        """Loads one more adapter for all visitors, if it fits; returns its fit report."""
        report = self.engine.add_adapter(source)
        if report.ok:
            self._added = (*self._added, (report.name, source, report.revision))
        return report

    @abstractmethod
    def run(self, request: Request, names: Sequence[str], read: bool = True) -> Iterator[RunEvent]:
        """A generation: its steps, and before or after them the prompt's fusion weights.

        read: at the end comes the text's TextReading, where the text can be read once more.

        names: the N adapters that the caller knows; fusion and contributions have their order, and a merged
        adapter's contribution comes last (engine.resolve.lane_names). MergeStarted comes before a merge. A
        QueueUpdate holds a new position in the queue (0: no longer in it). None carries nothing and lets the
        caller leave. Closing the iterator stops the generation. Raises ComposerError, or gr.Error with the
        sentence of one.
        """

    @abstractmethod
    def run_many(
        self, requests: Sequence[Request], names: Sequence[str]
    ) -> Iterator[tuple[int, Step | Exception | None]]:
        """Several generations at once: (index of the request, its step), as they come.

        An exception ends that request alone. (-1, None) carries nothing and lets the caller leave. Closing
        the iterator stops all. names: as for `run`.
        """

    @abstractmethod
    def next_tokens(
        self, prompt: str, composition: Composition, written: Sequence[int] = (), left: Left = never
    ) -> NextTokens:
        """The likeliest next tokens after a prompt and what is written. Raises as `run` does, and for methods
        that merge adapters: a merge takes seconds, and each position of a slider would need its own.

        left: whether nobody waits for the answer any more; then what has not begun raises Withdrawn.
        """

    @abstractmethod
    def perplexities(self, texts: Sequence[tuple[str, str]]) -> list[float | None]:
        """Of each (prompt, continuation), under the base; see composer.evaluation.scoring."""

    @abstractmethod
    def fuse(self, prompt: str, names: Sequence[str], norm: bool, tokens: str) -> Fusion:
        """Fusion weights of the prompt alone; norm, tokens: as Composition has them. Raises as `run` does."""

    @abstractmethod
    def close(self) -> None:
        """End what runs in the background."""


def check_unmerged(composition: Composition) -> None:
    """Raises ComposerError for a composition that needs merged adapters."""
    if requires_materialization(composition):
        raise ComposerError("This method merges the adapters first; press Generate to see its words.")

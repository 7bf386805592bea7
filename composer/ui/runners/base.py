"""The interface between the page and an engine: texts, fusion weights, one more adapter."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.adapters.recipe import Source
from composer.analysis.explanation import Explanation
from composer.analysis.next_token import NextTokens
from composer.analysis.text_reading import TextReading
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.engine.added_adapters import AddedAdapters
from composer.engine.engine import Engine
from composer.engine.recipes import adapter_source
from composer.engine.resolve import requires_materialization
from composer.engine.scheduler import QueueUpdate
from composer.ui.runners.budgets import Budgets
from composer.ui.runners.use_count import UseCount
from composer.ui.validation import Request
from composer.ui.visitors import Own


@dataclass(frozen=True)
class MergeStarted:
    """A merge for this text has begun, which takes a while."""


@dataclass(frozen=True)
class LoadingStarted:
    """Adapters of the visitor's that had to make room are being loaded again."""

    names: tuple[str, ...]


Left = Callable[[], bool]
RunEvent = Fusion | Step | QueueUpdate | MergeStarted | LoadingStarted | TextReading | None


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
    # Texts of one call that decode at a time; the others wait, so that other visitors find slots.
    together = 8

    def __init__(self, engine: Engine, added: AddedAdapters | None = None, budgets: Budgets | None = None):
        self.engine = engine
        # Those of the catalog, which everybody has.
        self.catalog_names = tuple(engine.names)
        self.added = added or AddedAdapters(engine, math.inf, math.inf)
        self.use, self.budgets = UseCount(), budgets or Budgets()

    def places(self, requests: Sequence[Request]) -> int:
        """How many of one call's requests decode at a time."""
        return self.budgets.together(min(len(requests), self.together))

    def loading(self, added: Sequence[Own]) -> Iterator[LoadingStarted]:
        """Load the visitor's adapters in use, after an event where that takes a while. Raises ComposerError
        where one cannot be had any more."""
        if missing := tuple(each.name for each in added if each.name not in self.engine.names):
            yield LoadingStarted(missing)
        self.added.use([each.adapter for each in added])

    @abstractmethod
    def run(self, request: Request, names: Sequence[str], read: bool = True) -> Iterator[RunEvent]:
        """A generation: its steps, and before or after them the prompt's fusion weights.

        read: at the end comes the text's TextReading, where the text can be read once more.

        names: the N adapters that there are for the visitor; fusion and contributions have their order, and a
        merged adapter's contribution comes last (engine.resolve.lane_names). LoadingStarted and MergeStarted
        come before what takes a while. A QueueUpdate holds a new position in the queue (0: no longer in it).
        None carries nothing and lets the caller leave. Closing the iterator stops the generation. Raises
        ComposerError, or gr.Error with the sentence of one.
        """

    @abstractmethod
    def run_many(
        self, requests: Sequence[Request], names: Sequence[str], background: bool = False
    ) -> Iterator[tuple[int, Step | Exception | None]]:
        """Several generations at once: (index of the request, its step), as they come.

        background: with low priority; other visitors' texts come first.

        An exception ends that request alone. (-1, None) carries nothing and lets the caller leave. Closing
        the iterator stops all. names: as for `run`.
        """

    @abstractmethod
    def next_tokens(self, request: Request, names: Sequence[str], left: Left = never) -> NextTokens:
        """The likeliest next tokens after a prompt and what is written. Raises as `run` does, and for methods
        that merge adapters: a merge takes seconds, and each position of a slider would need its own.

        names: as for `run`. left: whether nobody waits for the answer any more; then what has not begun
        raises Withdrawn.
        """

    @abstractmethod
    def explain(
        self, request: Request, names: Sequence[str]
    ) -> Iterator[str | MergeStarted | LoadingStarted | Explanation | None]:
        """What the composition does to the prompt and what is written after it, without the weights' own
        comparison: sentences on what is computed now, and at the end the Explanation.

        Without anything written, a text is written first. names, None, and what it raises: as for `run`.
        """

    @abstractmethod
    def export(self, request: Request, names: Sequence[str], folder: Path, rank: int | None) -> float:
        """Write the mix as one PEFT adapter to a folder; see engine.export. Returns what a cut to a rank left
        of its squared norm. names: as for `run`. Raises ComposerError as `run` and `export` do."""

    @abstractmethod
    def perplexities(self, texts: Sequence[tuple[str, str]]) -> list[float | None]:
        """Of each (prompt, continuation), under the base; see composer.evaluation.scoring."""

    @abstractmethod
    def choice_scores(self, request: Request, continuations: Sequence[str]) -> list[float]:
        """How good each is as what the request asks, by its own adapters; see composer.evaluation.best_of_n.
        Raises ComposerError, also where an adapter cannot be had any more."""

    @abstractmethod
    def fuse(self, prompt: str, names: Sequence[str], norm: bool, tokens: str) -> Fusion:
        """Fusion weights of the prompt alone; norm, tokens: as Composition has them. Raises as `run` does."""

    def sources(self, request: Request) -> dict[str, Source]:
        """Where the visitor's adapters of a request are from."""
        return {own.name: adapter_source(own.adapter.source, own.adapter.revision) for own in request.added}

    @abstractmethod
    def close(self) -> None:
        """End what runs in the background."""

    def release(self) -> None:
        """Give up the engine and its memory, after `close`.

        FastAPI keeps the functions of an app in caches of the process, with them the page and this runner.
        """
        use = self.use
        self.__dict__.clear()
        self.use = use


def check_unmerged(composition: Composition) -> None:
    """Raises ComposerError for a composition that needs merged adapters."""
    if requires_materialization(composition):
        raise ComposerError("This method merges the adapters first; press Generate to see its words.")

"""What the judges say of the study's texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from composer.evaluation.generation import GeneratedText
from composer.evaluation.metrics import median, repetition
from composer.evaluation.store import Store
from composer.study.design.plan import Cell

# Target, prompt, sampling seed and module seed.
Place = tuple[str, str, int, int]


@dataclass(frozen=True)
class Outcome:
    """A cell with its text judged."""

    cell: Cell
    # Attribute -> whether the text has what is wanted of it.
    parts: Mapping[str, bool]
    # Of the continuation under the base; None for an empty one, and where it is not scored.
    perplexity: float | None
    # Share of the continuation's word 4-grams that it had before; None for one without any.
    repetition: float | None = None

    @property
    def right(self) -> bool:
        """Whether the text has every wanted label."""
        return all(self.parts.values())


def finished_texts(cells: Iterable[Cell], store: Store) -> list[GeneratedText]:
    """The cells' texts that are there, each once."""
    found = (store.text(key) for key in dict.fromkeys(cell.key for cell in cells))
    return [text for text in found if text and text.fault is None]


def judged_cells(
    cells: Iterable[Cell],
    store: Store,
    texts: Sequence[GeneratedText],
    labels: Mapping[str, Mapping[str, str | None]],
) -> list[Outcome]:
    """The cells whose text is among `texts`. labels: attribute -> text's key -> label."""
    repeated = {text.key: repetition(text.continuation) for text in texts}
    return [
        Outcome(
            cell,
            {attribute: labels[attribute][cell.key] == label for attribute, label in cell.target.wanted},
            store.perplexity(cell.key),
            repeated[cell.key],
        )
        for cell in cells
        if cell.key in repeated
    ]


def fluency(outcomes: Iterable[Outcome]) -> float | None:
    """Median perplexity of different texts: a text that stands at several places counts once."""
    return median({each.cell.key: each.perplexity for each in outcomes}.values())


def place_of(outcome: Outcome) -> Place:
    """What paired texts share."""
    cell = outcome.cell
    return cell.target.name, cell.prompt, cell.seed, cell.module_seed

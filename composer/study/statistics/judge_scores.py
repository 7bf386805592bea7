"""What the judges say of the study's texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from composer.evaluation.generation import GeneratedText
from composer.evaluation.judges.agreement import votes
from composer.evaluation.judges.ngram_judge import Judge
from composer.evaluation.metrics import repetition
from composer.evaluation.store import Store
from composer.study.design.plan import Cell


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


def outcomes(cells: Iterable[Cell], store: Store, judges: Sequence[Judge]) -> list[Outcome]:
    """Every cell whose text is there, judged. Each text is read once, prompt and continuation together.

    Several judges of an attribute vote; without a majority a text has no label, so it is not right.
    """
    cells = list(cells)
    made = finished_texts(cells, store)
    return judged_cells(cells, store, made, _labels(made, judges))


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


def _labels(texts: Sequence[GeneratedText], judges: Sequence[Judge]) -> dict[str, dict[str, str | None]]:
    """attribute -> key -> label."""
    found: dict[str, dict[str, str | None]] = {}
    read = [text.prompt + text.continuation for text in texts]
    for attribute in dict.fromkeys(judge.attribute for judge in judges):
        said = {judge.name: judge(read) for judge in judges if judge.attribute == attribute} if read else {}
        found[attribute] = dict(zip((text.key for text in texts), votes(said), strict=True))
    return found

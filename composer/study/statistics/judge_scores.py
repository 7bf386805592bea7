"""What the judges say of the study's texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    cells = [cell for cell in cells if (text := store.text(cell.key)) and text.fault is None]
    keys = list(dict.fromkeys(cell.key for cell in cells))
    made = [store.text(key) for key in keys]
    repeated = {text.key: repetition(text.continuation) for text in made if text}
    labels = _labels(keys, [text.prompt + text.continuation for text in made if text], judges)
    return [
        Outcome(
            cell,
            {attribute: labels[attribute][cell.key] == label for attribute, label in cell.target.wanted},
            store.perplexity(cell.key),
            repeated[cell.key],
        )
        for cell in cells
    ]


def _labels(
    keys: Sequence[str], texts: Sequence[str], judges: Sequence[Judge]
) -> dict[str, dict[str, str | None]]:
    """attribute -> key -> label."""
    found = {}
    for attribute in dict.fromkeys(judge.attribute for judge in judges):
        said = {judge.name: judge(texts) for judge in judges if judge.attribute == attribute} if texts else {}
        found[attribute] = dict(zip(keys, votes(said), strict=True))
    return found

"""Several judges on the same finished texts: each one's share, their majority's, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from composer.core.document import Block, DataTable, Paragraph
from composer.evaluation.judges.agreement import Agreement, agreements, votes
from composer.evaluation.judges.ngram_judge import HeldOut, Judge
from composer.evaluation.texts import Text


@dataclass(frozen=True)
class Opinion:
    """What the judges of one attribute say of a subject's texts, prompt and continuation read together."""

    subject: str
    # By judge, the part of the texts that it gives the subject's own label.
    shares: Mapping[str, float]
    # The part that more than half of the judges give it.
    majority: float
    # The part on which no label has a majority.
    undecided: float


@dataclass(frozen=True)
class Panel:
    """Several judges of one attribute on the same texts."""

    # What its judges decide.
    attribute: str
    opinions: tuple[Opinion, ...]
    agreements: tuple[Agreement, ...]
    # By judge, what it got right of rows it never saw.
    held_out: Mapping[str, tuple[HeldOut, ...]]


def evaluate_panel(texts: Sequence[Text], judges: Sequence[Judge]) -> Panel:
    """The panel of one attribute's judges, at least one, on at least one text.

    Texts of subjects that are no label of theirs count for the agreement alone.
    """
    read = [text.prompt + text.continuation for text in texts]
    verdicts = {judge.name: judge(read) for judge in judges}
    decided = votes(verdicts)
    labels = judges[0].labels
    groups = groupby(range(len(texts)), lambda place: texts[place].subject)
    opinions = tuple(
        _opinion(subject, tuple(places), verdicts, decided) for subject, places in groups if subject in labels
    )
    return Panel(
        judges[0].attribute,
        opinions,
        tuple(agreements(verdicts)),
        {judge.name: judge.scores for judge in judges},
    )


def blocks(panel: Panel) -> list[Block]:
    """The panel as a table, then each judge's accuracy and each pair's agreement."""
    names = list(panel.held_out)
    cells = []
    for opinion in panel.opinions:
        shares = (*(opinion.shares[name] for name in names), opinion.majority, opinion.undecided)
        cells.append((opinion.subject, *(f"{share:.1%}" for share in shares)))
    notes = [f"Judge {name}: {_accuracy(panel.held_out[name])}." for name in names]
    table = DataTable(("adapter", *names, "majority", "no majority"), tuple(cells))
    return [table, *map(Paragraph, [*notes, *map(_agreed, panel.agreements)])]


def _opinion(
    subject: str, places: Sequence[int], verdicts: Mapping[str, Sequence[str]], decided: Sequence[str | None]
) -> Opinion:
    def share(said: Sequence[str | None], wanted: str | None) -> float:
        return sum(said[place] == wanted for place in places) / len(places)

    shares = {name: share(said, subject) for name, said in verdicts.items()}
    return Opinion(subject, shares, share(decided, subject), share(decided, None))


def _accuracy(scores: Sequence[HeldOut]) -> str:
    if not scores:
        return "accuracy not measured here (give the labelled text with --data)"
    return ", ".join(f"{score.accuracy:.1%} right on {score.rows} of {score.file}" for score in scores)


def _agreed(pair: Agreement) -> str:
    kappa = "not defined" if pair.kappa is None else f"{pair.kappa:.2f}"
    return f"{pair.one} and {pair.two} agree on {pair.same:.1%} of the texts (Cohen's kappa {kappa})."

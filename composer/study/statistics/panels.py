"""The stored judges by kind: a panel has one of a kind for every attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from composer.evaluation.judges.agreement import Agreement, agreements
from composer.evaluation.store import Store
from composer.evaluation.verdicts import JudgeCard, Verdicts
from composer.study.design.plan import Cell
from composer.study.statistics.judge_scores import Outcome, finished_texts, judged_cells


@dataclass(frozen=True)
class Panel:
    """Judges of one kind."""

    # Without the attributes' names.
    name: str
    # By attribute.
    judges: Mapping[str, JudgeCard]

    @property
    def accuracy(self) -> float:
        """Mean over its judges; one that was not measured counts as never right."""
        return sum(judge.accuracy or 0.0 for judge in self.judges.values()) / len(self.judges)


def panels(judges: Sequence[JudgeCard], attributes: Sequence[str]) -> list[Panel]:
    """The first judge of every attribute, then the second of every one, ...; the most accurate panel first.

    An attribute with fewer judges lends its last one to the later panels. None where an attribute has none.
    """
    own = {name: [judge for judge in judges if judge.attribute == name] for name in attributes}
    if not own or not all(own.values()):
        return []
    found = []
    for place in range(max(map(len, own.values()))):
        seated = {name: each[min(place, len(each) - 1)] for name, each in own.items()}
        found.append(Panel(" / ".join(dict.fromkeys(map(_kind, seated.values()))), seated))
    return sorted(found, key=lambda panel: -panel.accuracy)


def panel_outcomes(
    panel: Panel, cells: Sequence[Cell], store: Store, verdicts: Verdicts
) -> tuple[Outcome, ...]:
    """Every cell whose text is there and was read by all the panel's judges."""
    texts = finished_texts(cells, store)
    labels = {name: verdicts.labels(judge, texts) for name, judge in panel.judges.items()}
    read = [place for place in range(len(texts)) if all(said[place] is not None for said in labels.values())]
    by_key = {name: {texts[place].key: said[place] for place in read} for name, said in labels.items()}
    return tuple(judged_cells(cells, store, [texts[place] for place in read], by_key))


def judges_agreement(
    some: Sequence[Panel], cells: Sequence[Cell], store: Store, verdicts: Verdicts
) -> dict[str, list[Agreement]]:
    """Attribute -> every two judges of it on the texts that both have read."""
    texts, found = finished_texts(cells, store), {}
    for attribute in some[0].judges if some else ():
        cards = {panel.judges[attribute].name: panel.judges[attribute] for panel in some}
        said = {name: verdicts.labels(card, texts) for name, card in cards.items()}
        both = [place for place in range(len(texts)) if all(own[place] is not None for own in said.values())]
        read = {name: [str(own[place]) for place in both] for name, own in said.items()}
        if both and len(read) > 1:
            found[attribute] = agreements(read)
    return found


def _kind(judge: JudgeCard) -> str:
    """ "sentiment (word counts)" -> "word counts"."""
    return judge.name.replace(judge.attribute, "").strip(" ()-,:") or judge.name

"""The study's tables as values: each arm on each kind of target, beside the two arms it has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from composer.evaluation.metrics import Interval, mean
from composer.study.design.choices import FLUENT
from composer.study.design.targets import PAIR, Target
from composer.study.statistics.comparison import Best, best, control, difference, fluency, shared
from composer.study.statistics.judge_scores import Outcome

# What every other arm is compared with.
BASELINES = ("sum", "prompting")
SINGLE = "single-"

Strengths = dict[float, list[Outcome]]


@dataclass(frozen=True)
class ArmMetrics:
    """An arm's texts at strength 1 or at its best."""

    # How many different ones.
    texts: int
    control: Interval
    # Median.
    perplexity: float | None
    # Mean share of a text's word 4-grams that it had before.
    repetition: float | None
    # Rival -> control minus the rival's, paired; the rival at strength 1 as well, or at its own best.
    beside: Mapping[str, Interval]


@dataclass(frozen=True)
class ArmSummary:
    """An arm on one kind of target: at strength 1 and at its best strength, where it has those.

    It has a best one if it was tried at every strength that any arm was: the more there are to choose from,
    the better the best looks.
    """

    arm: str
    one: ArmMetrics | None
    best: ArmMetrics | None
    strengths: tuple[float, ...]
    # Whether that is within the bound on perplexity on both halves of the prompts; on one where it is not, no
    # strength was.
    fluent: bool
    # Strength -> control and perplexity, over the texts that all its strengths have.
    sweep: Mapping[float, tuple[Interval, float | None]]


@dataclass(frozen=True)
class AttributeControl:
    """One attribute's control in texts that should have two."""

    arm: str
    attribute: str
    control: Interval
    # Minus that of its module alone.
    change: Interval | None


@dataclass(frozen=True)
class PairInterference:
    """A pair of modules: how far their changes point the same way, and what composing them costs."""

    target: str
    conflict: float
    # Control of each alone minus its control in the sum, mean of the two attributes; 0 to 1.
    loss: float


def by_kind(outcomes: Iterable[Outcome]) -> dict[str, dict[str, Strengths]]:
    """kind -> arm -> strength -> outcomes.

    On targets of one attribute, arms that equal the adapter alone are left out, since they have no texts of
    their own. The baselines stay, as the others are compared with them.
    """
    found: dict[str, dict[str, Strengths]] = {}
    for each in outcomes:
        cell = each.cell
        arms = found.setdefault(cell.target.kind, {})
        arms.setdefault(cell.arm, {}).setdefault(cell.strength, []).append(each)
    return {kind: _own_texts(arms) for kind, arms in found.items()}


def lines(arms: Mapping[str, Strengths]) -> list[ArmSummary]:
    """A line per arm of one kind."""
    bound = _bound(arms)
    tried = {strength for own in arms.values() for strength in own}
    tops = {name: best(own, bound) if tried <= set(own) else None for name, own in arms.items()}
    ones = {name: own[1.0] for name, own in arms.items() if 1.0 in own}
    return [_line(name, own, ones, tops) for name, own in arms.items()]


def parts(arms: Mapping[str, Strengths]) -> list[AttributeControl]:
    """Each attribute by itself at strength 1, for the arms that should give two."""
    attributes = dict.fromkeys(a for own in arms.values() for each in own.get(1.0, ()) for a in each.parts)
    found = []
    for name, own in arms.items():
        for attribute in attributes:
            right, here = _has(attribute), own.get(1.0, ())
            alone = arms.get(f"{SINGLE}{attribute}", {}).get(1.0, ())
            if share := control(here, right):
                found.append(AttributeControl(name, attribute, share, difference(here, alone, right)))
    return found


def clashes(arms: Mapping[str, Strengths], conflict: Callable[[str, str], float]) -> list[PairInterference]:
    """Every pair that the sum was tried on with both modules alone beside it, at strength 1."""
    targets: dict[str, Target] = {
        each.cell.target.name: each.cell.target for each in arms.get("sum", {}).get(1.0, ())
    }
    found = []
    for name, target in targets.items():
        losses = []
        for attribute, _ in target.wanted:
            right = _has(attribute)
            alone = _on(name, arms.get(f"{SINGLE}{attribute}", {}).get(1.0, ()))
            if loss := difference(alone, _on(name, arms["sum"][1.0]), right):
                losses.append(loss.value)
        if target.kind == PAIR and len(losses) == 2:
            found.append(PairInterference(name, conflict(*target.modules), sum(losses) / 2))
    return found


def _line(
    name: str,
    own: Strengths,
    ones: Mapping[str, Sequence[Outcome]],
    tops: Mapping[str, Best | None],
) -> ArmSummary:
    top = tops[name]
    peaks = {arm: each.outcomes for arm, each in tops.items() if each}
    sweep = {s: (share, fluency(each)) for s, each in sorted(shared(own).items()) if (share := control(each))}
    return ArmSummary(
        name,
        _measured(name, ones),
        _measured(name, peaks),
        tuple(sorted(set(top.strengths))) if top else (),
        top is not None and top.fluent,
        sweep,
    )


def _measured(name: str, arms: Mapping[str, Sequence[Outcome]]) -> ArmMetrics | None:
    own = arms.get(name, ())
    if (share := control(own)) is None:
        return None
    beside = {
        rival: gap
        for rival in BASELINES
        if rival != name and (gap := difference(own, arms.get(rival, ()))) is not None
    }
    repeated = mean({each.cell.key: each.repetition for each in own}.values())
    return ArmMetrics(len({each.cell.key for each in own}), share, fluency(own), repeated, beside)


def _bound(arms: Mapping[str, Strengths]) -> float | None:
    """The most perplexity that is fluent, from the modules' texts that the strengths are compared on."""
    singles = [shared(own) for name, own in arms.items() if name.startswith(SINGLE)]
    spread = fluency([each for own in singles for each in own.get(1.0, ())])
    return None if spread is None else FLUENT * spread


def _own_texts(arms: dict[str, Strengths]) -> dict[str, Strengths]:
    alone = {key for name, own in arms.items() if name.startswith(SINGLE) for key in _keys(own)}
    return {
        name: own
        for name, own in arms.items()
        if name.startswith(SINGLE) or name in BASELINES or not _keys(own) <= alone
    }


def _keys(own: Strengths) -> set[str]:
    return {each.cell.key for texts in own.values() for each in texts}


def _has(attribute: str) -> Callable[[Outcome], bool]:
    return lambda outcome: outcome.parts[attribute]


def _on(target: str, outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [each for each in outcomes if each.cell.target.name == target]

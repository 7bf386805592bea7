"""From judged texts to what can be claimed: control with its interval, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from composer.evaluation.metrics import Interval, median, over_prompts
from composer.study.statistics.judge_scores import Outcome

Right = Callable[[Outcome], bool]
Place = tuple[str, str, int, int]
ByStrength = Mapping[float, Sequence[Outcome]]


def _all_right(outcome: Outcome) -> bool:
    return outcome.right


@dataclass(frozen=True)
class Best:
    """An arm at its best strength, chosen and reported on different prompts.

    The prompts fall into two halves; each half's outcomes are those at the strength that was best on the
    other half.
    """

    # The two choices, first half first.
    strengths: tuple[float, float]
    outcomes: tuple[Outcome, ...]
    # Whether both were within the bound.
    fluent: bool


def control(outcomes: Sequence[Outcome], right: Right = _all_right) -> Interval | None:
    """Share of outcomes that are right; None without any."""
    return over_prompts([(each.cell.prompt, float(right(each))) for each in outcomes])


def difference(
    ours: Sequence[Outcome], theirs: Sequence[Outcome], right: Right = _all_right
) -> Interval | None:
    """Control of ours minus theirs over the texts both have: same target, prompt and seeds.

    The bootstrap draws prompts, each with all its pairs, so what the two have in common cancels. None
    where they share nothing.
    """
    other = {place_of(each): float(right(each)) for each in theirs}
    return over_prompts(
        [
            (each.cell.prompt, float(right(each)) - other[place_of(each)])
            for each in ours
            if place_of(each) in other
        ]
    )


def best(arm: ByStrength, bound: float | None) -> Best | None:
    """The arm at its best strength; None with fewer than two prompts that all its strengths share.

    Best: the highest control among the strengths whose median perplexity is within `bound` (None: any); if
    there is none, the lowest perplexity. Ties go to the strength nearest 1. Only cells that all strengths
    share count, so that easier prompts of one strength do not favour it.
    """
    arm = shared(arm)
    prompts = list(dict.fromkeys(each.cell.prompt for own in arm.values() for each in own))
    if len(prompts) < 2:
        return None
    halves = set(prompts[0::2]), set(prompts[1::2])
    strengths, kept, fluent = [], [], True
    for own, other in (halves, halves[::-1]):
        chosen, within = _choose({strength: _within(each, other) for strength, each in arm.items()}, bound)
        strengths.append(chosen)
        kept += _within(arm[chosen], own)
        fluent &= within
    return Best((strengths[0], strengths[1]), tuple(kept), fluent)


def fluency(outcomes: Sequence[Outcome]) -> float | None:
    """Median perplexity."""
    return median(each.perplexity for each in outcomes)


def shared(arm: ByStrength) -> dict[float, list[Outcome]]:
    """The outcomes whose target, prompt and seed every strength has."""
    places = [{place_of(each) for each in own} for own in arm.values()]
    common = set.intersection(*places) if places else set()
    return {strength: [each for each in own if place_of(each) in common] for strength, own in arm.items()}


def _choose(arm: ByStrength, bound: float | None) -> tuple[float, bool]:
    """The best strength, and whether it is within the bound."""
    # Nobody knows how fluent texts are that were not scored.
    spread = {s: math.inf if (own := fluency(each)) is None else own for s, each in arm.items()}
    fluent = [strength for strength in arm if bound is None or spread[strength] <= bound]
    if not fluent:
        return min(arm, key=lambda strength: (spread[strength], abs(strength - 1))), False
    return max(fluent, key=lambda strength: (_mean(arm[strength]), -abs(strength - 1))), True


def _mean(outcomes: Sequence[Outcome]) -> float:
    return sum(each.right for each in outcomes) / len(outcomes) if outcomes else 0.0


def _within(outcomes: Sequence[Outcome], prompts: set[str]) -> list[Outcome]:
    return [each for each in outcomes if each.cell.prompt in prompts]


def place_of(outcome: Outcome) -> Place:
    """What paired texts share."""
    cell = outcome.cell
    return cell.target.name, cell.prompt, cell.seed, cell.module_seed

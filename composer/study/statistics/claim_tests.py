"""Tests of the claims on judged texts: a paired difference, its interval, p after Holm, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from composer.evaluation.metrics import Interval
from composer.study.design.claims import BOTH, FULL, NF4, PERPLEXITY, Claim
from composer.study.statistics.bootstrap import Bootstrap, Value, bootstrap_mean
from composer.study.statistics.holm import holm
from composer.study.statistics.judge_scores import Outcome, place_of

LEVEL = 0.05
# With fewer prompts to draw from, a bootstrap says too little: three that agree would prove anything.
FEWEST_PROMPTS = 10
HOLDS, FAILS, UNDECIDED, OFF = "holds", "does not hold", "undecided", "off"


@dataclass(frozen=True)
class Judged:
    """The outcomes of one run, as one panel of judges sees them."""

    base: str
    precision: str
    outcomes: Sequence[Outcome]


@dataclass(frozen=True)
class ClaimTest:
    """A claim on one run, as one panel sees it."""

    claim: str
    # Left minus right: a difference of shares, or of the natural logarithms of perplexities.
    found: Bootstrap
    # Means over the texts that are compared; perplexities as geometric means.
    left: float
    right: float
    # How many texts of each arm.
    texts: int
    # Two-sided, against the claim's bound; before and after Holm's correction over the run's claims.
    p: float
    adjusted: float
    verdict: str

    @property
    def interval(self) -> Interval:
        return self.found.interval


def cohens_h(left: float, right: float) -> float:
    """Effect size of two shares: 2 asin sqrt left - 2 asin sqrt right; 0.2 is small, 0.5 medium, 0.8 large.

    Source: Cohen 1988, "Statistical power analysis for the behavioral sciences", chapter 6.
    """
    return 2 * (math.asin(math.sqrt(left)) - math.asin(math.sqrt(right)))


def run_tests(claims: Sequence[Claim], run: Judged, others: Iterable[Judged] = ()) -> dict[str, ClaimTest]:
    """Every claim that the run has texts for. others: where the same base in full is looked for."""
    full = next((each for each in others if (each.base, each.precision) == (run.base, FULL)), None)
    tests = {}
    for claim in claims:
        if claim.precisions and (run.precision != NF4 or full is None):
            continue
        theirs = full if claim.precisions and full else run
        if found := _test(claim, run.outcomes, theirs.outcomes):
            tests[claim.id] = found
    adjusted = holm({name: test.p for name, test in tests.items()})
    bounds = {claim.id: claim for claim in claims}
    return {
        name: replace(
            test,
            adjusted=adjusted[name],
            verdict=_verdict(bounds[name], test.found, adjusted[name]),
        )
        for name, test in tests.items()
    }


def settle(verdicts: Sequence[str]) -> str:
    """One verdict of several panels': off where one says that a claim holds and another does not."""
    if HOLDS in verdicts and set(verdicts) != {HOLDS}:
        return OFF
    return verdicts[0] if len(set(verdicts)) == 1 else UNDECIDED


def overall(verdicts: Sequence[str]) -> str:
    """One verdict of several runs': it holds where it holds on all, and does not where it fails on any."""
    for verdict in (FAILS, OFF):
        if verdict in verdicts:
            return verdict
    return HOLDS if set(verdicts) == {HOLDS} else UNDECIDED


def side(outcomes: Iterable[Outcome], arm: str, setting: str) -> list[Outcome]:
    """An arm's texts at one of its settings."""
    return [each for each in outcomes if (each.cell.arm, each.cell.setting) == (arm, setting)]


def measured(outcome: Outcome, measure: str) -> float | None:
    """The number that a claim's measure takes of a text; None where it was not measured."""
    if measure == PERPLEXITY:
        return math.log(outcome.perplexity) if outcome.perplexity else None
    return float(outcome.right if measure == BOTH else outcome.parts[measure])


def _test(claim: Claim, ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> ClaimTest | None:
    left = side(ours, claim.left, claim.at)
    right = side(theirs, claim.right, claim.at)
    pairs = _pairs(left, right, claim.measure)
    found = bootstrap_mean((prompt, seed, one - two) for prompt, seed, one, two in pairs)
    if found is None:
        return None
    means = [sum(pair[place] for pair in pairs) / len(pairs) for place in (2, 3)]
    if claim.measure == PERPLEXITY:
        means = [math.exp(mean) for mean in means]
    return ClaimTest(claim.id, found, means[0], means[1], len(pairs), found.p(claim.bound), 1.0, UNDECIDED)


def _pairs(
    left: Iterable[Outcome], right: Iterable[Outcome], measure: str
) -> list[tuple[str, int, float, float]]:
    """Prompt, module seed and both numbers of every two texts at the same place."""
    other = {place_of(each): number for each in right if (number := measured(each, measure)) is not None}
    return [
        (each.cell.prompt, each.cell.module_seed, number, other[place_of(each)])
        for each in left
        if (number := measured(each, measure)) is not None and place_of(each) in other
    ]


def values(outcomes: Iterable[Outcome], measure: str = BOTH) -> list[Value]:
    """What `bootstrap_mean` takes."""
    return [
        (each.cell.prompt, each.cell.module_seed, number)
        for each in outcomes
        if (number := measured(each, measure)) is not None
    ]


def _verdict(claim: Claim, found: Bootstrap, adjusted: float) -> str:
    above = [value > claim.bound for value in (found.value, *found.by_module_seed)]
    if adjusted >= LEVEL or len(set(above)) > 1 or found.prompts < FEWEST_PROMPTS:
        return UNDECIDED
    return HOLDS if above[0] == claim.higher else FAILS


def by_claim(tests: Sequence[Mapping[str, ClaimTest]]) -> dict[str, list[ClaimTest]]:
    """Claim -> its tests, of the panels that have one."""
    found: dict[str, list[ClaimTest]] = {}
    for own in tests:
        for name, test in own.items():
            found.setdefault(name, []).append(test)
    return found

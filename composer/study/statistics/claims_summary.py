"""The claims over all runs, and each arm's numbers on each, as values for the report."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from composer.evaluation.metrics import Interval, mean, median
from composer.study.design.choices import FLUENT
from composer.study.design.claims import CHOSEN, CLAIMS, SENTIMENT, TOPIC, Claim
from composer.study.runs import SINGLES, StudyRun
from composer.study.statistics.bootstrap import bootstrap_mean, mean_of
from composer.study.statistics.claim_tests import (
    FEWEST_PROMPTS,
    ClaimTest,
    Judged,
    overall,
    run_tests,
    settle,
    side,
    values,
)
from composer.study.statistics.judge_scores import Outcome, fluency, place_of

Prompts = Collection[str]


@dataclass(frozen=True)
class ClaimOnRun:
    """A claim on one run: what each panel says, the most accurate first, and the verdict of all."""

    run: str
    tests: tuple[ClaimTest, ...]
    verdict: str


@dataclass(frozen=True)
class ClaimResult:
    """A claim on all runs that can tell."""

    claim: Claim
    runs: tuple[ClaimOnRun, ...]
    verdict: str
    # Mean of the runs' differences, by each one's most accurate panel.
    mean: Interval


@dataclass(frozen=True)
class ArmRow:
    """An arm at one of its settings on one run."""

    arm: str
    setting: str
    constants: Mapping[str, object]
    strength: float
    texts: int
    # By panel, the most accurate first.
    control: tuple[Interval, ...]
    # By the first panel, like the rest.
    sentiment: float
    topic: float
    # Control with each training of the modules.
    by_module_seed: tuple[float, ...]
    # Median, and that over the median of the modules alone.
    perplexity: float | None
    ratio: float | None
    repetition: float | None
    # Control minus the sum's at the same setting; None for the sum itself.
    minus_sum: Interval | None
    # False for a chosen setting that is not fluent, as nothing tried was.
    fluent: bool = True

    @property
    def reads_fluently(self) -> bool:
        """Whether it kept the bound where it was chosen, or here where nothing was chosen."""
        return self.fluent if self.setting == CHOSEN else (self.ratio or 0) <= FLUENT


def in_settings(rows: Iterable[ArmRow]) -> dict[str, dict[str, ArmRow]]:
    """Arm -> setting -> row."""
    found: dict[str, dict[str, ArmRow]] = {}
    for row in rows:
        found.setdefault(row.arm, {})[row.setting] = row
    return found


@dataclass(frozen=True)
class RerunResult:
    """A claim's number in the run, and in the texts that were made again."""

    claim: str
    run: str
    number: float
    again: Interval
    # Those that texts were made again of.
    prompts: int

    @property
    def within(self) -> bool | None:
        """Whether the number lies in the new texts' interval; None where those are of too few prompts."""
        if self.prompts < FEWEST_PROMPTS:
            return None
        return self.again.low <= self.number <= self.again.high


def claim_results(
    runs: Sequence[StudyRun], prompts: Prompts | None = None, claims: Sequence[Claim] = CLAIMS
) -> list[ClaimResult]:
    """Every claim that any run has texts for, on these prompts (None: all)."""
    on_runs = [_on_run(run, runs, prompts, claims) for run in runs]
    found = []
    for claim in claims:
        own = tuple(each[claim.id] for each in on_runs if claim.id in each)
        pooled = mean_of([each.tests[0].found for each in own])
        if pooled:
            found.append(ClaimResult(claim, own, overall([each.verdict for each in own]), pooled))
    return found


def arm_rows(run: StudyRun, prompts: Prompts | None = None) -> list[ArmRow]:
    """Every arm at every setting, in the run's order, on these prompts (None: all)."""
    by_panel = [_kept(outcomes, prompts) for outcomes in run.outcomes]
    alone = median(
        each.perplexity for arm in SINGLES for each in side(by_panel[0], arm, "one") if each.perplexity
    )
    rows = []
    for setting in run.record.settings:
        texts = [side(outcomes, setting.arm, setting.name) for outcomes in by_panel]
        texts = [[each for each in own if each.cell.strength == setting.strength] for own in texts]
        drawn = [bootstrap_mean(values(own)) for own in texts]
        control = tuple(each.interval for each in drawn if each)
        if len(control) < len(texts):
            continue
        own, rival = texts[0], side(by_panel[0], "sum", setting.name)
        spread = fluency(own)
        rows.append(
            ArmRow(
                setting.arm,
                setting.name,
                setting.constants,
                setting.strength,
                len({each.cell.key for each in own}),
                control,
                _share(own, SENTIMENT),
                _share(own, TOPIC),
                _by_module_seed(own),
                spread,
                spread / alone if spread and alone else None,
                mean({each.cell.key: each.repetition for each in own}.values()),
                None if setting.arm == "sum" else _minus(own, rival),
                setting.fluent,
            )
        )
    return rows


def rerun_results(
    runs: Sequence[StudyRun], prompts: Prompts | None = None, claims: Sequence[Claim] = CLAIMS
) -> list[RerunResult]:
    """Every claim on the texts that were made again, for the runs that have some."""
    found = []
    inside = [claim for claim in claims if not claim.precisions]
    for run in runs:
        if not run.again:
            continue
        base, precision = run.record.base, run.record.precision
        first = run_tests(inside, Judged(base, precision, _kept(run.outcomes[0], prompts)))
        again = run_tests(inside, Judged(base, precision, _kept(run.again[0], prompts)))
        found += [
            RerunResult(name, run.record.title, first[name].found.value, test.interval, test.found.prompts)
            for name, test in again.items()
            if name in first
        ]
    return found


def _on_run(
    run: StudyRun, runs: Sequence[StudyRun], prompts: Prompts | None, claims: Sequence[Claim]
) -> dict[str, ClaimOnRun]:
    panels = []
    for place, outcomes in enumerate(run.outcomes):
        others = [_judged(each, each.outcomes[place], prompts) for each in runs if place < len(each.outcomes)]
        panels.append(run_tests(claims, _judged(run, outcomes, prompts), others))
    return {
        name: ClaimOnRun(
            run.record.title,
            tuple(own[name] for own in panels if name in own),
            settle([own[name].verdict for own in panels if name in own]),
        )
        for name in panels[0]
    }


def _judged(run: StudyRun, outcomes: Sequence[Outcome], prompts: Prompts | None) -> Judged:
    return Judged(run.record.base, run.record.precision, _kept(outcomes, prompts))


def _kept(outcomes: Sequence[Outcome], prompts: Prompts | None) -> list[Outcome]:
    return [each for each in outcomes if prompts is None or each.cell.prompt in prompts]


def _share(outcomes: Sequence[Outcome], attribute: str) -> float:
    known = [each.parts[attribute] for each in outcomes if attribute in each.parts]
    return sum(known) / len(known) if known else 0.0


def _by_module_seed(outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    seeds = sorted({each.cell.module_seed for each in outcomes})
    return tuple(
        sum(own) / len(own)
        for seed in seeds
        if (own := [each.right for each in outcomes if each.cell.module_seed == seed])
    )


def _minus(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> Interval | None:
    other = {place_of(each): float(each.right) for each in theirs}
    found = bootstrap_mean(
        (each.cell.prompt, each.cell.module_seed, float(each.right) - other[place_of(each)])
        for each in ours
        if place_of(each) in other
    )
    return found.interval if found else None

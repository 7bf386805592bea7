"""The study on one page: the claims and what became of them first, then each arm's numbers on each base."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from composer.core.document import Block, DataTable, Heading, Paragraph, Picture
from composer.evaluation.judges.agreement import Agreement
from composer.evaluation.metrics import Interval
from composer.evaluation.verdicts import JudgeCard
from composer.study.design.arms import Arm, label
from composer.study.design.choices import FLUENT
from composer.study.design.claims import CHOSEN, PERPLEXITY, Claim
from composer.study.domains.stored import StoredDomains
from composer.study.reporting import figures
from composer.study.reporting.alpha import pattern_blocks
from composer.study.reporting.leaderboard import standings
from composer.study.reporting.without_judges import domain_blocks, domain_sentences, domain_summary
from composer.study.statistics.alpha_profile import AlphaProfile
from composer.study.statistics.bootstrap import DRAWS
from composer.study.statistics.claim_tests import (
    FAILS,
    FEWEST_PROMPTS,
    HOLDS,
    OFF,
    UNDECIDED,
    cohens_h,
)
from composer.study.statistics.claims_summary import ArmRow, ClaimOnRun, ClaimResult, RerunResult
from composer.study.statistics.panels import Panel

TITLE = "Which way of composing works?"
NOTHING = "There is no run yet, so nothing is claimed."
READING = (
    "A claim holds on a base where its difference is beyond the bound with p below 0.05 after Holm's "
    "correction over all claims on that base, with each training of the modules by itself, and on at least "
    f"{FEWEST_PROMPTS} prompts; it does not hold where it is so on the other side. It holds "
    "at all where it holds on every base here, and does not where it fails on any. Where one kind of judge "
    "says that it holds and the other not, it is off. Differences are in points, perplexities as a ratio; in "
    "brackets 95% intervals. Every difference is paired: same target, prompt, sampling seed and training of "
    f"the modules in both arms. Intervals and p (two-sided): {DRAWS} bootstrap draws of prompts and, where "
    "there are several, of the modules' trainings. h: Cohen's effect size (0.2 small, 0.5 medium, 0.8 large)."
)
SEEN = (
    "The same on the report's part of PPLM's 35 prefixes. They are kept apart: an earlier study of ours "
    "reported on all 35, and what arms have by default at strength 1 was settled with them in sight."
)
ALL_WAYS = (
    "Best first. Fluent: at the strength, and the constant, that had both right most often on development "
    f"prompts within {FLUENT:g} times the modules' own median perplexity (- where none kept that); arms that "
    "have nothing to choose at strength 1. In brackets: 95% interval, of differences too, which are in "
    "points and paired. Nothing here is corrected for the number of arms; the claims are."
)
OVERVIEW = (
    "Both attributes right, with 95% intervals. A dot: at the strength that was chosen for it, where that "
    "reads fluently; a ring: at strength 1, less fluent. In colour the best, dashed the sum of outputs."
)
ORDER = (HOLDS, FAILS, UNDECIDED, OFF)


@dataclass(frozen=True)
class RunFindings:
    """What one run's part of the page says."""

    title: str
    panels: Sequence[Panel]
    agreements: Mapping[str, Sequence[Agreement]]
    rows: Sequence[ArmRow]
    patterns: Sequence[AlphaProfile]
    # (arm, targets, reason).
    missing: Sequence[tuple[str, str, str]]
    # Sentence -> how many texts failed for it.
    faults: Mapping[str, int]
    # The test without judges; None where it was not made.
    domains: StoredDomains | None
    notes: Sequence[str]
    unfinished: str | None


@dataclass(frozen=True)
class ClaimsFindings:
    """Everything the page says."""

    claims: Sequence[ClaimResult]
    # The same on prompts that an earlier study has reported on.
    seen: Sequence[ClaimResult]
    # Whether `claims` are of such prompts too, as there were no others.
    only_seen: bool
    rerun: Sequence[RerunResult]
    runs: Sequence[RunFindings]
    arms: Mapping[str, Arm]


def blocks(findings: ClaimsFindings) -> list[Block]:
    """The whole page in order. Pictures of a run have its place in their file's name."""
    if not findings.runs:
        return [Heading(TITLE, 1), Paragraph(NOTHING)]
    found: list[Block] = [Heading(TITLE, 1), Paragraph(_count(findings.claims))]
    found += [Paragraph(run.unfinished) for run in findings.runs if run.unfinished]
    if findings.only_seen:
        found.append(Paragraph("All prompts are of PPLM's 35, which an earlier study of ours reported on."))
    found += [claims_table(findings.claims), *_overview(findings), *_without_judges(findings.runs)]
    found += [*_judges(findings.runs), Paragraph(READING)]
    found += [Heading("Each claim on each base"), details_table(findings.claims)]
    if findings.seen:
        found += [Heading("The claims on prefixes that were reported on before"), Paragraph(SEEN)]
        found.append(claims_table(findings.seen))
    found += _rerun(findings.rerun, [each.claim for each in findings.claims])
    for place, run in enumerate(findings.runs, start=1):
        found += _run(run, findings.arms, place)
    return [*found, Heading("The arms"), _arms(findings)]


def claims_table(results: Sequence[ClaimResult]) -> DataTable:
    """A row per claim in the order of their list: its verdict, its sentence, and its number on each run."""
    runs = list(dict.fromkeys(each.run for result in results for each in result.runs))
    rows = []
    for place, result in enumerate(results, start=1):
        own = {each.run: each for each in result.runs}
        cells = (_cell(result.claim, own[run]) if run in own else "-" for run in runs)
        mean = (number(result.claim, result.mean),) if len(runs) > 1 else ()
        rows.append((str(place), result.verdict, result.claim.sentence, *mean, *cells, result.claim.source))
    middle = ("mean", *runs) if len(runs) > 1 else tuple(runs)
    return DataTable(("no.", "verdict", "claim", *middle, "from"), tuple(rows), words=3)


def details_table(results: Sequence[ClaimResult]) -> DataTable:
    """A row per claim, by its number in the table of claims, and run: what the verdict is made of."""
    rows = tuple(
        _details(place, result.claim, on_run)
        for place, result in enumerate(results, start=1)
        for on_run in result.runs
    )
    head = ("no.", "on", "verdict", "difference", "p (Holm)", "effect h", "other judges", "they say")
    return DataTable(head, rows, words=3)


def summary(results: Sequence[ClaimResult], runs: Sequence[RunFindings]) -> list[Block]:
    """The claims for who has a minute: number, interval, verdict, and on which base it is what.

    runs: those whose test without judges is told too, where they have one.
    """
    if not results:
        return [Paragraph(NOTHING)]
    all_runs = len({run.run for result in results for run in result.runs})
    rows = (
        (
            result.claim.sentence,
            f"**{result.verdict}**",
            number(result.claim, result.mean),
            _where(result.runs, all_runs),
        )
        for result in results
    )
    table = DataTable(("claim", "verdict", "difference", "where"), tuple(rows), words=4)
    return [table, *domain_summary({run.title: run.domains for run in runs if run.domains})]


def _overview(findings: ClaimsFindings) -> list[Block]:
    runs = {run.title: run.rows for run in findings.runs if run.rows}
    if not runs:
        return []
    return [Picture(figures.overview_figure(runs, findings.arms), OVERVIEW, "overview.svg")]


def _without_judges(runs: Sequence[RunFindings]) -> list[Block]:
    """What the test found on each base that has it."""
    return [block for run in runs if run.domains for block in domain_sentences(run.domains, run.title)]


def ways(runs: Sequence[RunFindings], arms: Mapping[str, Arm]) -> list[Block]:
    """Each run's table of all ways, best first."""
    if not runs:
        return [Paragraph(NOTHING)]
    found: list[Block] = []
    for run in runs:
        found += [Heading(run.title, 3), *standings_blocks(run, arms)]
    return found


def standings_blocks(run: RunFindings, arms: Mapping[str, Arm]) -> list[Block]:
    """The table of all ways, and whose word it is."""
    return [standings(run.rows, arms), Paragraph(judges_sentence(run.panels))] if run.rows else []


def number(claim: Claim, found: Interval) -> str:
    """In points, or for perplexity as a ratio, with its interval."""
    if claim.measure == PERPLEXITY:
        value, low, high = (math.exp(each) for each in (found.value, found.low, found.high))
        return f"x{value:.2f} [{low:.2f}, {high:.2f}]"
    return found.as_points()


def judges_sentence(panels: Sequence[Panel]) -> str:
    """Every judge with its accuracy."""
    judges = dict.fromkeys(judge for panel in panels for judge in panel.judges.values())
    return f"Judges: {'; '.join(map(_judge, judges))}."


def _count(results: Sequence[ClaimResult]) -> str:
    counts = Counter(result.verdict for result in results)
    said = {
        HOLDS: ("holds", "hold"),
        FAILS: ("does not hold", "do not hold"),
        UNDECIDED: ("is undecided", "are undecided"),
        OFF: ("is off, since the judges disagree", "are off, since the judges disagree"),
    }
    parts = [f"{counts[verdict]} {said[verdict][counts[verdict] != 1]}" for verdict in ORDER]
    return f"Of {len(results)} claims, written down before, {', '.join(parts)}."


def _cell(claim: Claim, on_run: ClaimOnRun) -> str:
    return f"{number(claim, on_run.tests[0].interval)}: {on_run.verdict}"


def _details(place: int, claim: Claim, on_run: ClaimOnRun) -> tuple[str, ...]:
    first, *others = on_run.tests
    return (
        str(place),
        on_run.run,
        on_run.verdict,
        number(claim, first.interval),
        f"{first.adjusted:.3f}",
        "-" if claim.measure == PERPLEXITY else f"{cohens_h(first.left, first.right):+.2f}",
        "; ".join(number(claim, test.interval) for test in others) or "-",
        "; ".join(test.verdict for test in others) or "-",
    )


def _where(runs: Sequence[ClaimOnRun], all_runs: int) -> str:
    """What became of the claim, and on which of all runs."""
    named = {
        verdict: names for verdict in ORDER if (names := [run.run for run in runs if run.verdict == verdict])
    }
    most = max(named, key=lambda verdict: len(named[verdict]))
    if len(runs) == all_runs > 1 and len(named) == 1:
        return f"{most} on every base"
    if len(runs) == all_runs > 2 and len(named[most]) == all_runs - 1:
        [(verdict, [other])] = [each for each in named.items() if each[0] != most]
        return f"{most} on all but {other} ({verdict})"
    return "; ".join(f"{verdict} on {' and '.join(names)}" for verdict, names in named.items())


def _judges(runs: Sequence[RunFindings]) -> list[Block]:
    if not runs:
        return []
    found: list[Block] = [Paragraph(judges_sentence(runs[0].panels))]
    for run in runs:
        pairs = [pair for own in run.agreements.values() for pair in own]
        said = (
            f"{pair.one} and {pair.two} on {pair.same:.1%} (kappa "
            f"{'-' if pair.kappa is None else f'{pair.kappa:.2f}'})"
            for pair in pairs
        )
        if pairs:
            found.append(Paragraph(f"Agreement on the texts of {run.title}: {'; '.join(said)}."))
    return found


def _judge(judge: JudgeCard) -> str:
    if judge.accuracy is None:
        return f"{judge.name}, accuracy not measured here"
    return f"{judge.name}, {judge.accuracy:.1%} right on {judge.rows} rows it never saw"


def _rerun(results: Sequence[RerunResult], listed: Sequence[Claim]) -> list[Block]:
    if not results:
        return []
    claims = {claim.id: (str(place), claim) for place, claim in enumerate(listed, start=1)}
    told = [result.within for result in results if result.within is not None]
    rows = tuple(
        (
            place,
            result.run,
            number(claim, Interval(result.number, result.number, result.number)).split(" ")[0],
            number(claim, result.again),
            {True: "yes", False: "no", None: "too few prompts"}[result.within],
        )
        for result in results
        if result.claim in claims
        for place, claim in (claims[result.claim],)
    )
    return [
        Heading("Made again"),
        Paragraph(
            f"A random part of the places, all arms at each, with fresh sampling seeds: {sum(told)} of "
            f"{len(told)} claims' numbers lie in the interval of the texts made again (19 of 20 should)."
        ),
        DataTable(("no.", "on", "number", "made again", "within"), rows, words=2),
    ]


def _run(run: RunFindings, arms: Mapping[str, Arm], place: int) -> list[Block]:
    panels = [panel.name for panel in run.panels]
    head = (
        "arm",
        "setting",
        *(f"both right ({name})" for name in panels),
        "minus sum",
        "sentiment",
        "topic",
        "by module seed",
        "perplexity",
        "x modules'",
        "texts",
    )
    found: list[Block] = [Heading(run.title)]
    if run.rows:
        found += [
            Heading("All ways", 3),
            Paragraph(ALL_WAYS),
            standings(run.rows, arms),
            Picture(
                figures.fluency_figure(run.rows, arms),
                "Both right against median perplexity, a ring at strength 1, a dot as chosen; up and left is "
                "better. In colour sum, prompting and the best of each family.",
                f"fluency-{place}.svg",
            ),
        ]
    found += [
        Heading("Every setting", 3),
        DataTable(head, tuple(_row(row, arms) for row in run.rows), 2),
        Paragraph(
            "At 1: strength 1 with the constants that the arm has by default. Sentiment, topic and module "
            "seeds: as the first judges say."
        ),
        *pattern_blocks(run.patterns, f"alpha-{place}.svg"),
        *domain_blocks(run.domains, f"domains-{place}.svg"),
    ]
    rows = [*run.missing, *((_texts(count), "-", reason) for reason, count in run.faults.items())]
    if rows:
        found += [
            Heading("What could not be made", 3),
            DataTable(("arm", "targets", "why"), tuple(rows), words=3),
        ]
    return [*found, Heading("How it was made", 3), *map(Paragraph, run.notes)]


def _row(row: ArmRow, arms: Mapping[str, Arm]) -> tuple[str, ...]:
    constants = ", ".join(f"{name} {value}" for name, value in row.constants.items())
    at = f"{'chosen' if row.setting == CHOSEN else 'at'} {row.strength:g}"
    return (
        label(row.arm, arms),
        f"{at} ({constants})" if constants else at,
        *(each.as_percent() for each in row.control),
        "-" if row.minus_sum is None else row.minus_sum.as_points(),
        f"{row.sentiment:.1%}",
        f"{row.topic:.1%}",
        " / ".join(f"{share:.0%}" for share in row.by_module_seed),
        "-" if row.perplexity is None else f"{row.perplexity:.1f}",
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        str(row.texts),
    )


def _texts(count: int) -> str:
    return f"{count} text{'s' if count > 1 else ''}"


def _arms(findings: ClaimsFindings) -> DataTable:
    named = dict.fromkeys(row.arm for run in findings.runs for row in run.rows)
    rows = tuple(
        (arm.label, arm.name, arm.help, arm.source)
        for arm in (findings.arms[name] for name in named if name in findings.arms)
    )
    return DataTable(("arm", "name", "what it does", "source"), rows, words=4)

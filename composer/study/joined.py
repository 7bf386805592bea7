"""Finished runs joined into one report: the claims over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from composer.core.document import markdown
from composer.core.errors import ComposerError
from composer.evaluation.prompts import REPORT, load_prompts
from composer.study.design.arms import Arm, all_arms
from composer.study.reporting.claims_report import (
    ClaimsFindings,
    RunFindings,
    blocks,
    standings_blocks,
    summary,
    ways,
)
from composer.study.reporting.files import Report
from composer.study.runs import StudyRun
from composer.study.statistics.alpha_profile import AlphaProfile, profile_of
from composer.study.statistics.claim_tests import ClaimTest, cohens_h
from composer.study.statistics.claims_summary import (
    ArmRow,
    ClaimResult,
    arm_rows,
    claim_results,
    rerun_results,
)


def joined(runs: Sequence[StudyRun]) -> Report:
    """The report over runs of the report stage, whatever their order; over none it says so.

    Raises ComposerError for runs of another stage, and for one run twice.
    """
    if strange := next((run for run in runs if run.record.stage != REPORT), None):
        raise ComposerError(f"The run on {strange.record.title} is no report; make one with --stage report.")
    runs = sorted(runs, key=lambda run: run.record.title)
    titles = [run.record.title for run in runs]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise ComposerError(f"Two of the runs are on {twice}; leave one of them out.")
    runs = aligned(runs)
    earlier = set(load_prompts())
    every = {prompt for run in runs for prompt in run.record.prompts}
    only_seen = bool(every) and every <= earlier
    fresh = every if only_seen else every - earlier
    found = ClaimsFindings(
        claim_results(runs, fresh),
        [] if only_seen else claim_results(runs, every & earlier),
        only_seen,
        rerun_results(runs, fresh),
        [_findings(run, arm_rows(run, fresh)) for run in runs],
        all_arms(),
    )
    return Report.of(blocks(found), _answer(runs, found))


def aligned(runs: Sequence[StudyRun]) -> list[StudyRun]:
    """The runs with one number for a training in all runs of a base, since texts are paired by it.

    A run that does not say which trainings it is of keeps its numbers.
    """
    known: dict[str, list[str]] = {}
    for run in runs:
        own = known.setdefault(run.record.base, [])
        own += [training for training in run.record.trainings if training not in own]
    return [
        run.renumbered([known[run.record.base].index(each) for each in run.record.trainings]) for run in runs
    ]


def _answer(runs: Sequence[StudyRun], found: ClaimsFindings) -> dict[str, Any]:
    """report.json. `tables` are for the README and the docs, a run's `standings` for its base's page."""
    own = [_plain_run(run, each, found.arms) for run, each in zip(runs, found.runs, strict=True)]
    used = dict.fromkeys(row["arm"] for run in own for row in run["arms"])
    return {
        "tables": {
            "summary": markdown(summary(found.claims, found.runs)),
            "ways": markdown(ways(found.runs, found.arms)),
        },
        "labels": {name: found.arms[name].label for name in used if name in found.arms},
        "claims": [_plain_claim(each) for each in found.claims],
        "seen": [_plain_claim(each) for each in found.seen],
        "rerun": [asdict(each) | {"within": each.within} for each in found.rerun],
        "runs": own,
    }


def _plain_run(run: StudyRun, found: RunFindings, arms: Mapping[str, Arm]) -> dict[str, Any]:
    return {
        "base": run.record.base,
        "precision": run.record.precision,
        "title": found.title,
        "standings": markdown(standings_blocks(found, arms)) if found.rows else None,
        "patterns": list(run.record.patterns),
        "unfinished": found.unfinished,
        "judges": [
            {"panel": panel.name, "judge": judge.name, "accuracy": judge.accuracy, "rows": judge.rows}
            for panel in found.panels
            for judge in panel.judges.values()
        ],
        "agreements": {name: [asdict(pair) for pair in own] for name, own in found.agreements.items()},
        "arms": [asdict(row) for row in found.rows],
        "missing": [list(each) for each in found.missing],
        "faults": dict(found.faults),
        "notes": list(found.notes),
    }


def _plain_claim(result: ClaimResult) -> dict[str, Any]:
    return {
        **asdict(result.claim),
        "verdict": result.verdict,
        "mean": asdict(result.mean),
        "runs": [
            {"run": each.run, "verdict": each.verdict, "tests": [_plain_test(test) for test in each.tests]}
            for each in result.runs
        ],
    }


def _plain_test(test: ClaimTest) -> dict[str, Any]:
    shares = all(0 <= share <= 1 for share in (test.left, test.right))
    return {
        **asdict(test.interval),
        "left": test.left,
        "right": test.right,
        "h": cohens_h(test.left, test.right) if shares else None,
        "texts": test.texts,
        "prompts": test.found.prompts,
        "by_module_seed": list(test.found.by_module_seed),
        "p": test.p,
        "adjusted": test.adjusted,
        "verdict": test.verdict,
    }


def _findings(run: StudyRun, rows: Sequence[ArmRow]) -> RunFindings:
    record = run.record
    missing = [
        (each.arm or "every arm", ", ".join(each.targets) or "all", each.reason) for each in record.missing
    ]
    return RunFindings(
        record.title,
        run.panels,
        run.agreements,
        rows,
        _profiles(run),
        missing,
        run.faults,
        run.domains,
        record.notes,
        _unfinished(run),
    )


def _unfinished(run: StudyRun) -> str | None:
    parts = []
    if run.missing:
        parts.append(f"{run.missing} texts are missing")
    if run.unjudged:
        parts.append(f"{run.unjudged} texts are not judged by all judges")
    return f"Unfinished on {run.record.title}: {' and '.join(parts)}." if parts else None


def _profiles(run: StudyRun) -> list[AlphaProfile]:
    try:
        return [profile_of(each) for each in run.record.patterns]
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise ComposerError("The run's file is damaged; make it again with --stage report.") from fault

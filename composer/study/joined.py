"""Finished runs joined into one report: the claims over all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from composer.core import document
from composer.core.errors import ComposerError
from composer.core.jsonable import to_jsonable
from composer.evaluation.metrics import Interval
from composer.evaluation.prompts import REPORT, load_prompts
from composer.study.design.arms import ARMS, Arm
from composer.study.design.choices import FLUENT
from composer.study.design.claims import CHOSEN, ONE
from composer.study.design.tuning import CONTRAST, REFERENCES
from composer.study.pipeline import Report
from composer.study.reporting import figures
from composer.study.reporting.claims_report import ClaimsFindings, RunFindings, blocks, judges_sentence
from composer.study.reporting.leaderboard import standings
from composer.study.reporting.study_report import TITLE
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
from composer.study.statistics.summary import ArmMetrics, ArmSummary

LABELS: Mapping[str, Arm] = {arm.name: arm for arm in (*ARMS, CONTRAST)}


def joined(runs: Sequence[StudyRun]) -> Report:
    """The report over runs of the report stage. Raises ComposerError for others, and for one run twice."""
    if strange := next((run for run in runs if run.record.stage != REPORT), None):
        raise ComposerError(f"The run on {strange.record.title} is no report; make one with --stage report.")
    titles = [run.record.title for run in runs]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise ComposerError(f"Two of the runs are on {twice}; leave one of them out.")
    earlier = set(load_prompts())
    every = {prompt for run in runs for prompt in run.record.prompts}
    only_seen = every <= earlier
    fresh = every if only_seen else every - earlier
    found = ClaimsFindings(
        claim_results(runs, fresh),
        [] if only_seen else claim_results(runs, every & earlier),
        only_seen,
        rerun_results(runs, fresh),
        [_findings(run, arm_rows(run, fresh)) for run in runs],
        LABELS,
    )
    report_blocks = blocks(found)
    return Report(
        document.markdown(report_blocks),
        document.html(TITLE, report_blocks, figures.draw),
        json.dumps(to_jsonable(_answer(runs, found)), allow_nan=False) + "\n",
    )


def _answer(runs: Sequence[StudyRun], found: ClaimsFindings) -> dict[str, Any]:
    """report.json. The first run's base, standings, patterns and warning are at the top, for its page."""
    own = [_plain_run(run, each, found.arms) for run, each in zip(runs, found.runs, strict=True)]
    return {
        **{name: own[0][name] for name in ("base", "standings", "patterns", "unfinished")},
        "labels": {name: arm.label for name, arm in found.arms.items()},
        "claims": [_plain_claim(each) for each in found.claims],
        "seen": [_plain_claim(each) for each in found.seen],
        "rerun": [asdict(each) | {"within": each.within} for each in found.rerun],
        "runs": own,
    }


def _plain_run(run: StudyRun, found: RunFindings, arms: Mapping[str, Arm]) -> dict[str, Any]:
    table = [standings(found.lines, arms), document.Paragraph(judges_sentence(found.panels))]
    return {
        "base": run.record.base,
        "precision": run.record.precision,
        "title": found.title,
        "standings": document.markdown(table) if found.lines else None,
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
        _lines(run, rows),
        _profiles(run),
        missing,
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


def _lines(run: StudyRun, rows: Sequence[ArmRow]) -> list[ArmSummary]:
    """The rows as the leaderboard and the figure read them: an arm at strength 1 and as chosen."""
    fluent = {each.arm: each.fluent for each in run.record.settings if each.name == CHOSEN}
    found = []
    for arm in dict.fromkeys(row.arm for row in rows):
        own = {row.setting: row for row in rows if row.arm == arm}
        one, best = own.get(ONE), own.get(CHOSEN)
        if best is None and one is not None and arm in REFERENCES and (one.ratio or 0) <= FLUENT:
            best = one
        sweep: dict[float, tuple[Interval, float | None]] = {
            row.strength: (row.control[0], row.perplexity)
            for row in sorted(own.values(), key=lambda row: row.strength)
        }
        found.append(
            ArmSummary(
                arm,
                _metrics(one),
                _metrics(best),
                (best.strength,) if best else (),
                best is not None and fluent.get(arm, True),
                sweep,
            )
        )
    return found


def _metrics(row: ArmRow | None) -> ArmMetrics | None:
    if row is None:
        return None
    beside = {} if row.minus_sum is None else {"sum": row.minus_sum}
    return ArmMetrics(row.texts, row.control[0], row.perplexity, row.repetition, beside)


def _profiles(run: StudyRun) -> list[AlphaProfile]:
    try:
        return [profile_of(each) for each in run.record.patterns]
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise ComposerError("The run's file is damaged; make it again with --stage report.") from fault

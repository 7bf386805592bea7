"""The study from an order to a report: which texts, what the judges say of them, what follows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.core import document
from composer.core.composition import Sampling
from composer.core.errors import ComposerError
from composer.core.jsonable import to_jsonable
from composer.core.machine import machine_line
from composer.core.names import unknown_name_message
from composer.engine.engine import Engine
from composer.evaluation.judges.ngram_judge import Judge
from composer.evaluation.store import Store
from composer.study.design.arms import ARMS, Arm
from composer.study.design.plan import StudyContext, StudyPlan, plan
from composer.study.design.targets import PAIR, all_targets, choose
from composer.study.reporting import figures
from composer.study.reporting.leaderboard import standings
from composer.study.reporting.study_report import TITLE, Findings, blocks
from composer.study.statistics.alpha_profile import load_own, patterns
from composer.study.statistics.judge_scores import outcomes
from composer.study.statistics.summary import by_kind, clashes, lines, parts
from composer.study.statistics.weight_conflict import delta_cosine


@dataclass(frozen=True)
class StudyConfig:
    """The options of a study."""

    prompts: tuple[str, ...]
    # Names; None: all.
    arms: tuple[str, ...] | None
    # Names; None: all.
    targets: tuple[str, ...] | None
    strengths: tuple[float, ...]
    # Texts per prompt.
    seeds: int
    sampling: Sampling
    # How many of a prompt's texts are scored.
    scored: int = 1
    # How many of a prompt's texts are made at strengths other than 1 and with three adapters.
    swept: int = 1
    # There, only the first so many prompts; None: all.
    swept_prompts: int | None = None


@dataclass(frozen=True)
class Report:
    markdown: str
    html: str
    json: str


def select_arms(names: Sequence[str] | None) -> tuple[Arm, ...]:
    """The arms of these names, in the project's order; None: all. Raises ComposerError for a strange name."""
    known = [arm.name for arm in ARMS]
    if strange := [name for name in names or () if name not in known]:
        raise ComposerError(unknown_name_message("arm", strange[0], known))
    return tuple(arm for arm in ARMS if names is None or arm.name in names)


def prepare(engine: Engine, config: StudyConfig) -> StudyPlan:
    """Every text to make. Raises ComposerError for names that are not there and numbers out of range."""
    targets = choose(all_targets(engine.base.spec.attributes), config.targets)
    return plan(
        StudyContext.of(engine),
        select_arms(config.arms),
        targets,
        config.strengths,
        config.prompts,
        config.seeds,
        config.sampling,
        config.scored,
        config.swept,
        config.swept_prompts,
    )


def check_judges(study_plan: StudyPlan, judges: Sequence[Judge]) -> None:
    """Raise the ComposerError that judging would end in, before hours of work."""
    decided = {judge.attribute for judge in judges}
    wanted = {attribute for cell in study_plan.cells for attribute, _ in cell.target.wanted}
    if undecided := sorted(wanted - decided):
        raise ComposerError(
            f"No judge decides {undecided[0]}; make one with: python -m composer judges --data FOLDER"
        )


def findings(
    engine: Engine,
    config: StudyConfig,
    study_plan: StudyPlan,
    store: Store,
    judges: Sequence[Judge],
    conflict: Callable[[str, str], float],
    notes: Sequence[str],
) -> Findings:
    """What the finished texts say. conflict: (module, module) -> how far they point the same way."""
    kinds = by_kind(outcomes(study_plan.cells, store, judges))
    pairs = kinds.get(PAIR, {})
    return Findings(
        {arm.name: arm for arm in select_arms(config.arms)},
        {kind: lines(arms) for kind, arms in kinds.items()},
        parts(pairs),
        patterns(engine, config.prompts, load_own()),
        clashes(pairs, conflict),
        study_plan.missing,
        Counter(store.faults(study_plan.jobs).values()),
        notes,
        _unfinished(len(store.finished(study_plan.jobs)), len(study_plan.jobs)),
        f"Judges: {'; '.join(map(_judge, judges))}." if judges else "",
    )


def report(
    engine: Engine,
    config: StudyConfig,
    study_plan: StudyPlan,
    store: Store,
    judges: Sequence[Judge],
    command: str,
) -> Report:
    """Judges the finished texts and writes the findings as Markdown, HTML and JSON."""
    notes = _notes(engine, config, study_plan, command)
    found = findings(engine, config, study_plan, store, judges, delta_cosine(engine), notes)
    report_blocks = blocks(found)
    answer = {
        "base": engine.base.id,
        "labels": {name: arm.label for name, arm in found.arms.items()},
        "standings": _standings(found),
        "kinds": {kind: [asdict(line) for line in own] for kind, own in found.lines.items()},
        "parts": [asdict(part) for part in found.parts],
        "patterns": [asdict(pattern) for pattern in found.patterns],
        "clashes": [asdict(clash) for clash in found.clashes],
        "missing": [asdict(each) for each in found.missing],
        "faults": dict(found.faults),
        "notes": list(notes),
        "unfinished": found.unfinished,
    }
    return Report(
        document.markdown(report_blocks),
        document.html(TITLE, report_blocks, figures.draw),
        json.dumps(to_jsonable(answer), allow_nan=False) + "\n",
    )


def write(report: Report, folder: Path) -> None:
    """report.md, report.html and report.json. Raises ComposerError for a folder that cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("md", "html", "json"):
            text = {"md": report.markdown, "html": report.html, "json": report.json}[suffix]
            (folder / f"report.{suffix}").write_text(text, "utf-8")
    except OSError as fault:
        raise ComposerError("The output folder cannot be used; choose another with --out.") from fault


def _notes(engine: Engine, config: StudyConfig, study_plan: StudyPlan, command: str) -> tuple[str, ...]:
    sampling = config.sampling
    strengths = ", ".join(f"{strength:g}" for strength in config.strengths)
    fewer = len(config.prompts[: config.swept_prompts])
    return (
        f"{len(config.prompts)} prompts with {config.seeds} texts each at strength 1; {fewer} prompts with "
        f"{min(config.swept, config.seeds)} at others and with three modules; strengths {strengths}; "
        f"{sampling.max_new_tokens} new tokens, temperature {sampling.temperature:g}, top-p "
        f"{sampling.top_p:g}, top-k {sampling.top_k}, base {engine.base.id}. {len(study_plan.jobs)} "
        f"different texts fill {len(study_plan.cells)} places of the table: what is the same text is made "
        f"once. Perplexity is measured on {min(config.scored, config.seeds)} of the {config.seeds} texts of "
        "each prompt.",
        f"Made by `{command}` on {engine.base.device} ({machine_line()}).",
    )


def _standings(found: Findings) -> str | None:
    """The table of pairs as the page shows it."""
    pairs = found.lines.get(PAIR)
    judged = [document.Paragraph(found.judged)] if found.judged else []
    return document.markdown([standings(pairs, found.arms), *judged]) if pairs else None


def _unfinished(made: int, wanted: int) -> str | None:
    if made == wanted:
        return None
    return (
        f"Unfinished: {made} of {wanted} texts are there, so arms and strengths do not all have the same "
        "prompts, and only paired differences compare like with like."
    )


def _judge(judge: Judge) -> str:
    """Its name, and how often it is right on rows it never saw, where that was measured."""
    rows = sum(score.rows for score in judge.scores)
    if not rows:
        return f"{judge.name}, accuracy not measured here"
    right = sum(score.accuracy * score.rows for score in judge.scores) / rows
    return f"{judge.name}, {right:.1%} right on {rows} rows it never saw"

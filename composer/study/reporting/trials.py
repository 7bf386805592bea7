"""What was tried on development prompts and what was chosen, as a report."""

from __future__ import annotations

import json
from dataclasses import asdict

from composer.core import document
from composer.core.document import Block, DataTable, Heading, Paragraph
from composer.core.jsonable import to_jsonable
from composer.study.design.choices import Choices, Trial
from composer.study.pipeline import Report
from composer.study.reporting import figures
from composer.study.reporting.claims_report import judges_sentence
from composer.study.runs import StudyRun, trials

TITLE = "What is chosen on development prompts"


def trials_report(run: StudyRun, choices: Choices) -> Report:
    """Every trial in a table, the chosen ones marked."""
    tried = trials(run)
    bound = "any perplexity" if choices.bound is None else f"{choices.bound:.1f}"
    found: list[Block] = [
        Heading(f"{TITLE}: {run.record.title}", 1),
        Paragraph(choices.rule),
        Paragraph(f"The bound here: {bound}. {judges_sentence(run.panels)}"),
        DataTable(
            ("arm", "constants", "strength", "both right", "perplexity", "texts", "chosen"),
            tuple(_row(trial, choices) for trial in tried),
            words=2,
        ),
        Heading("How it was made"),
        *map(Paragraph, run.record.notes),
    ]
    answer = {"choices": asdict(choices), "trials": [asdict(trial) for trial in tried]}
    return Report(
        document.markdown(found),
        document.html(TITLE, found, figures.draw),
        json.dumps(to_jsonable(answer), allow_nan=False) + "\n",
    )


def _row(trial: Trial, choices: Choices) -> tuple[str, ...]:
    choice = choices.arms[trial.arm]
    chosen = (choice.constants, choice.strength) == (trial.constants, trial.strength)
    mark = ("yes" if choice.fluent else "yes, as the least bad") if chosen else ""
    return (
        trial.arm,
        ", ".join(f"{name} {value}" for name, value in trial.constants.items()) or "-",
        f"{trial.strength:g}",
        f"{trial.control:.1%}",
        "-" if trial.perplexity is None else f"{trial.perplexity:.1f}",
        str(trial.texts),
        mark,
    )

"""What was tried on development prompts and what was chosen, as a report."""

from __future__ import annotations

from dataclasses import asdict

from composer.core.document import Block, DataTable, Heading, Paragraph
from composer.study.design.choices import Choices, Trial
from composer.study.reporting.claims_report import judges_sentence
from composer.study.reporting.files import Report
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
    return Report.of(found, answer)


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

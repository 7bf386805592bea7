"""A finished run with what its judges say, read from its folder; no base is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from composer.core.errors import ComposerError
from composer.evaluation.judges.agreement import Agreement
from composer.evaluation.judges.ngram_judge import Judge
from composer.evaluation.metrics import median
from composer.evaluation.store import Store
from composer.evaluation.verdicts import Verdicts
from composer.study.design.choices import FLUENT, Choices, Trial, choose
from composer.study.design.claims import ONE
from composer.study.domains.stored import StoredDomains, read_domains
from composer.study.run_record import FILE, RERUN, RunRecord, StoredSetting, read_run
from composer.study.statistics.judge_scores import Outcome, finished_texts, fluency, place_of
from composer.study.statistics.panels import Panel, judges_agreement, panel_outcomes, panels

SINGLES = ("single-sentiment", "single-topic")


@dataclass(frozen=True)
class StudyRun:
    """A run's table, and its outcomes by each panel of judges, the most accurate panel first."""

    record: RunRecord
    panels: tuple[Panel, ...]
    outcomes: tuple[tuple[Outcome, ...], ...]
    # Attribute -> how far its judges agree.
    agreements: dict[str, list[Agreement]]
    # How many of the table's texts were not tried, and how many that are there are not judged.
    missing: int
    unjudged: int
    # Sentence -> how many texts failed for it.
    faults: Mapping[str, int] = field(default_factory=dict)
    # Outcomes of the texts that were made again, by panel; empty without.
    again: tuple[tuple[Outcome, ...], ...] = ()
    # The test without judges on the same base, where it lies beside the run.
    domains: StoredDomains | None = None

    @property
    def spread(self) -> float | None:
        """Median perplexity of the modules alone at strength 1."""
        return modules_perplexity(self.outcomes[0])

    def renumbered(self, module_seeds: Sequence[int]) -> StudyRun:
        """The same with other numbers for its trainings, in their order; without any the same run."""
        if not module_seeds:
            return self

        def moved(each: Outcome) -> Outcome:
            return replace(each, cell=replace(each.cell, module_seed=module_seeds[each.cell.module_seed]))

        outcomes, again = (
            tuple(tuple(map(moved, own)) for own in panels) for panels in (self.outcomes, self.again)
        )
        return replace(self, outcomes=outcomes, again=again)


def load_run(folder: Path) -> StudyRun:
    """Raises ComposerError for a folder without a run, and for one that no panel has judged."""
    record = read_run(folder / FILE)
    store, verdicts = Store(folder), Verdicts(folder)
    attributes = list(dict.fromkeys(name for cell in record.cells for name, _ in cell.target.wanted))
    seated = tuple(panels(verdicts.judges, attributes))
    if not seated:
        raise ComposerError(
            "The run's texts have no judges; let some read them with: python -m composer study --judge-again"
        )
    again = read_run(folder / RERUN).cells if (folder / RERUN).is_file() else ()

    def outcomes(cells: Sequence) -> tuple[tuple[Outcome, ...], ...]:
        return tuple(panel_outcomes(panel, cells, store, verdicts) for panel in seated)

    found = outcomes(record.cells)
    keys = {cell.key for cell in record.cells}
    tried = {key: text for key in keys if (text := store.text(key))}
    made = {key for key, text in tried.items() if text.fault is None}
    read = set.intersection(*({each.cell.key for each in own} for own in found))
    return StudyRun(
        record,
        seated,
        found,
        judges_agreement(seated, record.cells, store, verdicts),
        len(keys - tried.keys()),
        len(made - read),
        Counter(text.fault for text in tried.values() if text.fault),
        outcomes(again) if again else (),
        read_domains(folder),
    )


def judge_run(
    folder: Path, judges: Sequence[Judge], progress: Callable[[int], None] = lambda count: None
) -> None:
    """Lets the judges read the texts of a run, and of its rerun, that they have not read yet."""
    store, verdicts = Store(folder), Verdicts(folder)
    cells = list(read_run(folder / FILE).cells)
    if (folder / RERUN).is_file():
        cells += read_run(folder / RERUN).cells
    texts = finished_texts(cells, store)
    for judge in judges:
        verdicts.add(judge, texts, progress)


def modules_perplexity(outcomes: Sequence[Outcome]) -> float | None:
    return median(
        each.perplexity for each in outcomes if each.cell.arm in SINGLES and each.cell.setting == ONE
    )


def trials(run: StudyRun) -> list[Trial]:
    """Every setting of every arm on the texts that all of the arm's settings have."""
    found = []
    arms: dict[str, list[StoredSetting]] = {}
    for setting in run.record.settings:
        if setting.name != ONE:
            arms.setdefault(setting.arm, []).append(setting)
    for own in arms.values():
        texts = [[_at(outcomes, setting) for outcomes in run.outcomes] for setting in own]
        if not all(each for by_panel in texts for each in by_panel):
            continue
        shared = set.intersection(*({place_of(each) for each in by_panel[0]} for by_panel in texts))
        if not shared:
            continue
        for setting, by_panel in zip(own, texts, strict=True):
            kept = [[each for each in outcomes if place_of(each) in shared] for outcomes in by_panel]
            shares = [sum(each.right for each in each_panel) / len(each_panel) for each_panel in kept]
            found.append(
                Trial(
                    setting.arm,
                    setting.constants,
                    setting.strength,
                    len(kept[0]),
                    sum(shares) / len(shares),
                    fluency(kept[0]),
                )
            )
    return found


def choices_of(run: StudyRun, hashes: Sequence[str]) -> Choices:
    """What development says. Raises ComposerError while texts or verdicts are missing."""
    if run.missing or run.unjudged:
        raise ComposerError("Nothing can be chosen before all development texts are there; run again.")
    bound = None if (spread := run.spread) is None else FLUENT * spread
    names = tuple(judge.name for panel in run.panels for judge in panel.judges.values())
    return Choices(
        run.record.base,
        bound,
        tuple(hashes),
        tuple(dict.fromkeys(names)),
        choose(trials(run), bound),
    )


def _at(outcomes: Sequence[Outcome], setting: StoredSetting) -> list[Outcome]:
    wanted = (setting.arm, setting.name, setting.strength)
    return [each for each in outcomes if (each.cell.arm, each.cell.setting, each.cell.strength) == wanted]

"""Several runs of one base made one, each with other trainings of the modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from composer.core.errors import ComposerError
from composer.evaluation.store import Store
from composer.evaluation.verdicts import Verdicts
from composer.study.design.plan import Cell
from composer.study.run_record import FILE, RERUN, RunRecord, read_run, write_run

# What runs must have in common: all that their texts depend on but the modules.
ALIKE = ("stage", "base", "precision", "seeds", "per_prompt", "sampling", "prompts", "settings")


def merge(folders: Sequence[Path], out: Path) -> None:
    """Write the runs of `folders` as one run to `out`, with their texts, scores, verdicts and reruns.

    Raises ComposerError for a single run, for runs that differ in more than their modules, for a training
    that is in two of them, for judges that not all have, and for an `out` that has a run.
    """
    if (out / FILE).exists():
        raise ComposerError("--out has a run already; give --merge an empty folder.")
    if len(folders) < 2:
        raise ComposerError("--merge makes one run of two or more; name more folders.")
    runs = [read_run(folder / FILE) for folder in folders]
    _check(runs, folders)
    merged = together(runs)
    store, verdicts = Store(out), Verdicts(out)
    reruns: list[Cell] = []
    for run, folder, offset in zip(runs, folders, _offsets(runs), strict=True):
        again = read_run(folder / RERUN).cells if (folder / RERUN).is_file() else ()
        reruns += _moved(again, offset)
        keys = list(dict.fromkeys(cell.key for cell in (*run.cells, *again)))
        store.take(Store(folder), keys)
        verdicts.take(Verdicts(folder), keys)
    if reruns:
        write_run(replace(merged, cells=tuple(reruns), patterns=(), missing=()), out / RERUN)
    write_run(merged, out / FILE)


def together(runs: Sequence[RunRecord]) -> RunRecord:
    """One table of several; the trainings keep their order."""
    first = runs[0]
    said = tuple(dict.fromkeys(note for run in runs for note in run.notes))
    return replace(
        first,
        module_seeds=sum(run.module_seeds for run in runs),
        trainings=tuple(training for run in runs for training in run.trainings),
        cells=tuple(
            cell
            for run, offset in zip(runs, _offsets(runs), strict=True)
            for cell in _moved(run.cells, offset)
        ),
        missing=tuple(dict.fromkeys(each for run in runs for each in run.missing)),
        notes=(f"{len(runs)} runs in one, each with other trainings of the modules. Of each:", *said),
    )


def _check(runs: Sequence[RunRecord], folders: Sequence[Path]) -> None:
    for name in ALIKE:
        if len({repr(getattr(run, name)) for run in runs}) > 1:
            raise ComposerError(
                f"The runs differ in {name.replace('_', ' ')}, so they are no runs of one study; "
                "leave one of them out."
            )
    trainings = [training for run in runs for training in run.trainings]
    if len(trainings) != sum(run.module_seeds for run in runs):
        raise ComposerError("A run does not say which modules it is of; make it again with --stage report.")
    if len(set(trainings)) < len(trainings):
        raise ComposerError("Two of the runs are of the same training of the modules; leave one of them out.")
    judges = [{card.id for card in Verdicts(folder).judges} for folder in folders]
    if any(each != judges[0] for each in judges):
        raise ComposerError("The runs have other judges; give them the same with --judge-again.")


def _offsets(runs: Sequence[RunRecord]) -> list[int]:
    """How many trainings come before each run's."""
    return [sum(run.module_seeds for run in runs[:place]) for place in range(len(runs))]


def _moved(cells: Sequence[Cell], offset: int) -> list[Cell]:
    return [replace(cell, module_seed=cell.module_seed + offset) for cell in cells]

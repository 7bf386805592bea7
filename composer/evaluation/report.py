"""The adapter table as a report, as plain values for JSON, and as a row of each model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.core.composition import Sampling
from composer.core.document import Block, DataTable, Paragraph, markdown
from composer.core.errors import ComposerError, quote_name
from composer.core.machine import machine_line
from composer.evaluation.adapter_table import Row
from composer.evaluation.judges.ngram_judge import Judge, accuracy
from composer.evaluation.metrics import Interval
from composer.evaluation.texts import BASE
from composer.training.model_card import MEASURED

TABLE = "table.json"
SHARES = ("shares", "alone")
PRECISIONS = {"none": "in full", "nf4": "in 4 bits (nf4)", "int8": "in 8 bits"}
HEAD = ("adapter", "control [95%]", "base alone", "continuation only", "perplexity", "x base", "distinct-2")


@dataclass(frozen=True)
class Setting:
    """How the texts were made: what is needed to make them again."""

    base: str
    # Of its weights: "none" or a quantisation.
    precision: str
    prompts: int
    seeds: int
    sampling: Sampling
    device: str
    command: str

    @property
    def weights(self) -> str:
        """How the base was loaded, in words."""
        return PRECISIONS.get(self.precision, self.precision)


def blocks(rows: Sequence[Row], judges: Sequence[Judge], setting: Setting) -> list[Block]:
    """The table and its notes. The first row is the base's."""
    cells = (_base_cells(rows[0], judges), *(_adapter_cells(row, rows[0]) for row in rows[1:]))
    return [DataTable(HEAD, cells), *_notes(judges, [setting])]


def as_object(rows: Sequence[Row], judges: Sequence[Judge], setting: Setting) -> dict:
    """The same as plain values; shares and accuracies between 0 and 1."""
    return {
        "rows": [asdict(row) for row in rows],
        "judges": [
            {
                "attribute": judge.attribute,
                "name": judge.name,
                "accuracy": accuracy(judge.scores),
                "held_out": [asdict(score) for score in judge.scores],
            }
            for judge in judges
        ],
        "setting": asdict(setting),
        "machine": machine_line(),
    }


@dataclass(frozen=True)
class FinishedRun:
    """One run's rows, the base's first, and how they were made."""

    rows: Sequence[Row]
    setting: Setting

    @classmethod
    def load(cls, folder: Path) -> FinishedRun:
        """Of a run that has ended. Raises ComposerError for a folder without a table."""
        try:
            found = json.loads((folder / TABLE).read_text("utf-8"))
            rows = [Row(**{**row, **{name: _shares(row[name]) for name in SHARES}}) for row in found["rows"]]
            setting = {**found["setting"], "sampling": Sampling(**found["setting"]["sampling"])}
            return cls(rows, Setting(**setting))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            raise ComposerError(
                f"There is no finished table in {quote_name(folder.name)}; make one with: "
                "python -m composer evaluate --out FOLDER"
            ) from fault

    def of(self, subject: str) -> Row | None:
        """A subject's row."""
        return next((row for row in self.rows if row.subject == subject), None)


def _shares(plain: Mapping[str, Mapping]) -> dict[str, Interval]:
    return {label: Interval(**interval) for label, interval in plain.items()}


def write_card(
    card: Path,
    subject: str,
    runs: Sequence[FinishedRun],
    judges: Sequence[Judge],
    more: Sequence[Block] = (),
) -> bool:
    """Writes an adapter's row of each run between the markers of its model card, and `more` below them.

    Returns False if there is no card with markers.
    """
    text = card.read_text("utf-8") if card.is_file() else ""
    before, start, rest = text.partition(MEASURED[0])
    _, end, after = rest.partition(MEASURED[1])
    if not (start and end):
        return False
    cells = [
        (run.setting.weights, *_adapter_cells(row, run.rows[0])[1:])
        for run in runs
        if (row := run.of(subject))
    ]
    own = [judge for judge in judges if subject in judge.labels]
    notes = _notes(own, [run.setting for run in runs])
    if not own:
        notes.insert(0, Paragraph("A dash under control: no judge decides on this label."))
    measured = markdown([DataTable(("base", *HEAD[1:]), tuple(cells)), *notes, *more])
    card.write_text(f"{before}{start}\n{measured}{end}{after}", "utf-8")
    return True


def _base_cells(row: Row, judges: Sequence[Judge]) -> tuple[str, ...]:
    shares = "; ".join(
        ", ".join(f"{label} {row.shares[label].value:.1%}" for label in judge.labels) for judge in judges
    )
    return BASE, shares or "-", "-", "-", _number(row.perplexity), "1.00", _number(row.distinct2)


def _adapter_cells(row: Row, base: Row) -> tuple[str, ...]:
    ratio = row.perplexity / base.perplexity if row.perplexity and base.perplexity else None
    label = row.subject
    return (
        label,
        _interval(row.shares.get(label)),
        _percent(base.shares.get(label)),
        _percent(row.alone.get(label)),
        _number(row.perplexity),
        _number(ratio),
        _number(row.distinct2),
    )


def _notes(judges: Sequence[Judge], settings: Sequence[Setting]) -> list[Paragraph]:
    """settings: of runs that differ in the base's precision alone."""
    setting, commands = settings[0], " and ".join(f"`{each.command}`" for each in settings)
    sampling = setting.sampling
    sentences = (
        f"{setting.prompts} prompts, {setting.seeds} seeds, {sampling.max_new_tokens} new tokens, "
        f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, top-k {sampling.top_k}, weight 1, "
        f"base {', '.join(dict.fromkeys(f'{each.base} {each.weights}' for each in settings))}.",
        "Control: share of texts (prompt and continuation) that a judge gives the adapter's label; the "
        "interval is a bootstrap over prompts. Perplexity: median, of the continuation under the base.",
        *(f"Judge of {judge}." for judge in judges),
        f"Made by {commands} on {setting.device} ({machine_line()}).",
    )
    return [Paragraph(sentence) for sentence in sentences]


def _interval(share: Interval | None) -> str:
    return "-" if share is None else share.as_percent()


def _percent(share: Interval | None) -> str:
    return "-" if share is None else f"{share.value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

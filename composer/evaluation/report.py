"""The adapter table as a report, as plain values for JSON, and as a row of each model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.core.composition import Sampling
from composer.core.document import Block, DataTable, Paragraph, markdown
from composer.core.machine import machine_line
from composer.evaluation.adapter_table import Row
from composer.evaluation.judges.ngram_judge import NgramJudge
from composer.evaluation.metrics import Interval
from composer.evaluation.texts import BASE
from composer.training.model_card import MEASURED

HEAD = ("adapter", "control [95%]", "base alone", "continuation only", "perplexity", "x base", "distinct-2")


@dataclass(frozen=True)
class Setting:
    """How the texts were made: what is needed to make them again."""

    base: str
    prompts: int
    seeds: int
    sampling: Sampling
    device: str
    command: str


def blocks(rows: Sequence[Row], judges: Sequence[NgramJudge], setting: Setting) -> list[Block]:
    """The table and its notes. The first row is the base's."""
    cells = (_base_cells(rows[0], judges), *(_adapter_cells(row, rows[0]) for row in rows[1:]))
    return [DataTable(HEAD, cells), *_notes(judges, setting)]


def as_object(rows: Sequence[Row], judges: Sequence[NgramJudge], setting: Setting) -> dict:
    """The same as plain values; shares and accuracies between 0 and 1."""
    return {
        "rows": [asdict(row) for row in rows],
        "judges": [
            {
                "attribute": judge.attribute,
                "accuracy": judge.accuracy,
                "trained_on": judge.trained_on,
                "held_out": [asdict(score) for score in judge.scores],
            }
            for judge in judges
        ],
        "setting": asdict(setting),
        "machine": machine_line(),
    }


def write_card(
    card: Path,
    row: Row,
    base: Row,
    judges: Sequence[NgramJudge],
    setting: Setting,
    more: Sequence[Block] = (),
) -> bool:
    """Writes an adapter's row between the markers of its model card, and `more` below it.

    Returns False if there is no card with markers.
    """
    text = card.read_text("utf-8") if card.is_file() else ""
    before, start, rest = text.partition(MEASURED[0])
    _, end, after = rest.partition(MEASURED[1])
    if not (start and end):
        return False
    own = [judge for judge in judges if row.subject in judge.labels]
    measured = markdown([DataTable(HEAD, (_adapter_cells(row, base),)), *_notes(own, setting), *more])
    card.write_text(f"{before}{start}\n{measured}{end}{after}", "utf-8")
    return True


def _base_cells(row: Row, judges: Sequence[NgramJudge]) -> tuple[str, ...]:
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


def _notes(judges: Sequence[NgramJudge], setting: Setting) -> list[Paragraph]:
    sampling = setting.sampling
    sentences = (
        f"{setting.prompts} prompts, {setting.seeds} seeds, {sampling.max_new_tokens} new tokens, "
        f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, top-k {sampling.top_k}, weight 1, "
        f"base {setting.base}.",
        "Control: share of texts (prompt and continuation) that a judge gives the adapter's label; the "
        "interval is a bootstrap over prompts. Perplexity: median, of the continuation under the base.",
        *(f"Judge of {judge}." for judge in judges),
        f"Made by `{setting.command}` on {setting.device} ({machine_line()}).",
    )
    return [Paragraph(sentence) for sentence in sentences]


def _interval(share: Interval | None) -> str:
    return "-" if share is None else f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _percent(share: Interval | None) -> str:
    return "-" if share is None else f"{share.value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

"""A comparison as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composer.ui.views.comparison import Comparison, Row


def files(comparison: Comparison, rows: Sequence[Row]) -> dict[str, str]:
    """The results by the ending of their file."""
    head = [
        "column",
        "method",
        "weights",
        *(row.label for row in rows),
        *(f"text, seed {seed}" for seed in comparison.seeds),
    ]
    table = [
        [
            column.title,
            column.composition.method,
            json.dumps(dict(column.composition.weights)),
            *(row.shown[place] for row in rows),
            *own.texts,
        ]
        for place, (column, own) in enumerate(zip(comparison.columns, comparison.own, strict=True))
    ]
    markdown = _markdown(comparison.prompt, head, table)
    return {"csv": _csv([head, *table]), "json": _json(comparison, rows), "md": markdown}


def _json(comparison: Comparison, rows: Sequence[Row]) -> str:
    document = {
        "prompt": comparison.prompt,
        "seeds": list(comparison.seeds),
        "columns": [
            {
                "title": column.title,
                "composition": column.composition.as_dict(),
                "texts": own.texts,
                "likeliest": own.likeliest,
                "scores": {row.label: row.shown[place] for row in rows},
                "perplexities": own.perplexities,
            }
            for place, (column, own) in enumerate(zip(comparison.columns, comparison.own, strict=True))
        ],
    }
    return json.dumps(document, ensure_ascii=False, indent=1)


def _markdown(prompt: str, head: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_cell(each) for each in cells) + " |"

    return "\n".join(
        [f"Prompt: {_cell(prompt)}", "", line(head), "|" + "---|" * len(head), *map(line, table), ""]
    )


def _csv(table: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([[_inert(cell) for cell in row] for row in table])
    return out.getvalue()


def _inert(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _cell(text: str) -> str:
    """Text inside a Markdown table."""
    return (
        text.replace("\\", "\\\\")
        .replace("|", "\\|")
        .replace("\r", " ")
        .replace("\n", " ")
        .replace("<", "&lt;")
    )

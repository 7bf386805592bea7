"""A report as files: Markdown, JSON, and the figures that the Markdown shows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.core.document import Block, Picture, markdown
from composer.core.errors import ComposerError
from composer.core.jsonable import to_jsonable

# The names that figures of a report have.
FIGURE = re.compile(r"(overview|(alpha|domains|fluency)-\d+)\.svg")


@dataclass(frozen=True)
class Report:
    """What `write` writes."""

    markdown: str
    json: str
    # File name -> SVG.
    figures: Mapping[str, str]

    @classmethod
    def of(cls, blocks: Sequence[Block], answer: Mapping[str, object]) -> Report:
        """blocks: pictures have an SVG as their figure, and a file."""
        pictures = {each.file: str(each.figure) for each in blocks if isinstance(each, Picture)}
        return cls(markdown(blocks), json.dumps(to_jsonable(answer), allow_nan=False) + "\n", pictures)


def write(report: Report, folder: Path) -> None:
    """report.md, report.json and the figures, without those of an earlier report that this one has not.

    Raises ComposerError for a folder that cannot be used.
    """
    files = {"report.md": report.markdown, "report.json": report.json, **report.figures}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
        for path in folder.glob("*.svg"):
            if FIGURE.fullmatch(path.name) and path.name not in files:
                path.unlink()
    except OSError as fault:
        raise ComposerError("The output folder cannot be used; choose another with --out.") from fault


def marks(table: str) -> tuple[str, str]:
    """What stands in a Markdown file before and after one of report.json's `tables`."""
    return f"<!-- study: {table} -->\n\n", f"\n<!-- /study: {table} -->"


def fill_tables(path: Path, report: Report) -> None:
    """Write the report's tables between the marks of a Markdown file.

    Raises ComposerError for a file without marks, and for one that cannot be read or written.
    """
    try:
        text = before = path.read_text("utf-8")
        for name, table in json.loads(report.json)["tables"].items():
            start, end = marks(name)
            if start in text and end in text:
                head, _, rest = text.partition(start)
                text = f"{head}{start}{table}{end}{rest.partition(end)[2]}"
        if text != before:
            path.write_text(text, "utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ComposerError(f"{path.name} cannot be written; give --tables Markdown files.") from fault
    if not any(marks(name)[0] in text for name in json.loads(report.json)["tables"]):
        raise ComposerError(
            f"{path.name} has no place for a table; write {marks('summary')[0].strip()} and "
            f"{marks('summary')[1].strip()} where it belongs."
        )

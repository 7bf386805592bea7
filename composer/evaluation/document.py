"""A report as a list of blocks, written out as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class DataTable:
    """rows: as wide as head. The first `words` columns are words, the others numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


@dataclass(frozen=True)
class Picture:
    """figure: whatever draws itself as HTML. text: what there is to see, which is all that Markdown gets."""

    figure: object
    text: str


Block = Heading | Paragraph | DataTable | Picture

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 ui-sans-serif, system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid rgba(134,140,152,.35); text-align: right; white-space: nowrap }
.words { text-align: left }
figure { margin: 1rem 0 } figcaption { color: #868c98; font-size: 14px }
"""  # noqa: E501


def markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def html(title: str, blocks: Sequence[Block], draw: Callable[[object, bool], str]) -> str:
    """draw: (figure, whether it is the page's first) -> HTML; the first brings what all of them need."""
    parts, first = [], True
    for block in blocks:
        if isinstance(block, Picture):
            parts.append(
                f"<figure>{draw(block.figure, first)}<figcaption>{escape(block.text)}</figcaption></figure>"
            )
            first = False
        else:
            parts.append(_html(block))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_one_line(text)}"
        case DataTable(head, rows, words):
            rule = "|".join([*["---"] * words, *["---:"] * (len(head) - words)])
            lines = (f"| {' | '.join(_cell(cell) for cell in row)} |" for row in (head, *rows))
            top, *rest = lines
            return "\n".join([top, f"|{rule}|", *rest])
        case Picture(_, text):
            return f"*{_one_line(text)} (Drawn in report.html.)*"
        case Paragraph(text):
            return _one_line(text)


def _html(block: Heading | Paragraph | DataTable) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case DataTable(head, rows, words):
            body = "".join(f"<tr>{_cells('td', row, words)}</tr>\n" for row in rows)
            return (
                f"<table><thead><tr>{_cells('th', head, words)}</tr></thead>\n<tbody>{body}</tbody></table>"
            )
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"


def _cells(tag: str, row: Sequence[str], words: int) -> str:
    return "".join(
        f"<{tag}{' class=words' if place < words else ''}>{escape(cell)}</{tag}>"
        for place, cell in enumerate(row)
    )


def _one_line(text: str) -> str:
    """Labels and sentences can hold text of others: nothing in it may open a tag."""
    return " ".join(text.split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")

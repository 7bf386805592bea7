"""A report as a list of blocks, rendered as Markdown, as one HTML file, or as text for a terminal."""

from __future__ import annotations

import re
import textwrap
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
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # each as long as head
    words: int = 1  # how many of the first columns are words and not numbers


@dataclass(frozen=True)
class Picture:
    figure: object  # what `html`'s draw takes
    text: str  # the caption, and all that a terminal gets
    file: str = ""  # the picture's own, which Markdown shows; without one it has the caption alone


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> DataTable:
    """A DataTable of any sequences."""
    return DataTable(tuple(head), tuple(map(tuple, rows)), words)


Block = Heading | Paragraph | DataTable | Picture

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 ui-sans-serif, system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid rgba(134,140,152,.35); text-align: right; white-space: nowrap }
.words { text-align: left }
figure { margin: 1rem 0 } figcaption { color: #868c98; font-size: 14px }
"""  # noqa: E501


# Characters in a line of text for a terminal; tables can be wider.
TERMINAL_WIDTH = 100
# A "<" that a reader of Markdown would take for the beginning of a tag.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as GitHub's Markdown, a line end at the end."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def plain_text(blocks: Sequence[Block]) -> str:
    """The blocks as text for a terminal: wrapped sentences, and tables with aligned columns."""
    return "\n\n".join(_plain_text(block) for block in blocks)


def html(title: str, blocks: Sequence[Block], draw: Callable[[object, bool], str]) -> str:
    """The blocks as one HTML file that loads nothing from elsewhere.

    draw: (figure, whether it is the page's first) -> HTML; the first brings the script that all of them need.
    """
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
        case Picture(_, text, file):
            caption = f"*{_one_line(text)}*"
            return f"![{_one_line(text)}]({file})\n\n{caption}" if file else caption
        case Paragraph(text):
            return _one_line(text)


def _plain_text(block: Block) -> str:
    match block:
        case Heading(text, _):
            return text
        case DataTable(head, rows, words):
            widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
            return "\n".join(_aligned(row, widths, words) for row in (head, *rows))
        case Picture(text=text) | Paragraph(text):
            lines = text.split("\n")
            return "\n".join(textwrap.fill(line, TERMINAL_WIDTH, break_on_hyphens=False) for line in lines)


def _aligned(row: Sequence[str], widths: Sequence[int], words: int) -> str:
    cells = (
        cell.ljust(width) if place < words else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return f"  {'  '.join(cells)}".rstrip()


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
    """Labels and sentences can hold other people's text, so nothing in it may open a tag."""
    return _TAG.sub("&lt;", " ".join(text.split()))


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")

"""Reads texts from .txt, .jsonl and .csv files. A fault is a sentence that names the file and the line."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.core.errors import ComposerError, sanitize
from composer.training.data import normal

FEWEST = 50
# What a default run trains on is less than 1 MB of it.
LARGEST_MB = 20
# Characters of one text.
LONGEST = 100_000
MOST_FILES = 10_000
TABLES = (".jsonl", ".csv")
KINDS = (".txt", *TABLES)


@dataclass(frozen=True)
class OwnTexts:
    """The texts of one attribute, each once."""

    # Names of the files, without their folders.
    files: tuple[str, ...]
    texts: tuple[str, ...]
    # How many were left out because another one has the same words.
    duplicates: int


def read_texts(paths: Sequence[Path], column: str = "text") -> OwnTexts:
    """The texts of these files, and of the files in these folders.

    A .txt file has a text a paragraph, or one a line where no line is blank. .jsonl and .csv files have
    theirs in `column`. Raises ComposerError for what cannot be read, and for too few or too much of it.
    """
    files = [file for path in paths for file in _files(path)]
    size = sum(file.stat().st_size for file in files)
    if size > LARGEST_MB * 2**20:
        raise ComposerError(
            f"The texts have {size / 2**20:.0f} MB and at most {LARGEST_MB} MB are read: give a part; a "
            "training run uses about 1 MB."
        )
    unique: dict[str, str] = {}
    found = 0
    for text in (text for file in files for text in _texts(file, column)):
        unique.setdefault(normal(text), text)
        found += 1
    if len(unique) < FEWEST:
        twice = f" (and {found - len(unique)} duplicates)" if found > len(unique) else ""
        raise ComposerError(
            f"At least {FEWEST} texts are needed and {len(unique)} were found{twice}: add more. In a .txt "
            "file a blank line stands between two texts."
        )
    return OwnTexts(tuple(file.name for file in files), tuple(unique.values()), found - len(unique))


def _files(path: Path) -> list[Path]:
    """The file itself, or a folder's files of the known kinds in the order of their names."""
    if path.is_dir():
        inside = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in KINDS and file.is_file())
        files = [file for file in inside if not any(p.startswith(".") for p in file.relative_to(path).parts)]
        if not files:
            raise ComposerError(f"The folder {_name(path)} has no {', '.join(KINDS)} file: give another one.")
        if len(files) > MOST_FILES:
            raise ComposerError(
                f"The folder {_name(path)} has {len(files)} files and at most {MOST_FILES} are read: put "
                "many texts into one file."
            )
        return files
    if not path.is_file():
        raise ComposerError(f"--texts {_name(path)} is no file and no folder: check the path.")
    if path.suffix.lower() not in KINDS:
        raise ComposerError(f"{_name(path)} is none of {', '.join(KINDS)}: save its texts as one of them.")
    return [path]


def _texts(file: Path, column: str) -> Iterator[str]:
    text = _decoded(file)
    kind = file.suffix.lower()
    reader = {".jsonl": _json_lines, ".csv": _csv_rows}.get(kind)
    rows = reader(text, _name(file), column) if reader else _paragraphs(text)
    for line, row in rows:
        stripped = row.strip()
        _check(stripped, f"{_name(file)}, line {line},")
        if stripped:
            yield stripped


def _decoded(file: Path) -> str:
    raw = file.read_bytes()
    name = _name(file)
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ComposerError(f"{name} is written in UTF-16: save it as UTF-8.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = raw.count(b"\n", 0, fault.start) + 1
        raise ComposerError(f"{name} is no UTF-8 text (line {line}): save it as UTF-8.") from None
    place = text.find("\0")
    if place >= 0:
        line = text.count("\n", 0, place) + 1
        raise ComposerError(f"{name} has a NUL character (line {line}): it is no text, or a broken one.")
    if not text.strip():
        raise ComposerError(f"{name} is empty: leave it out.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each paragraph; of each line where none between two texts is blank."""
    lines = text.split("\n")
    blank = any(not line.strip() for line in text.strip().split("\n"))
    begin, paragraph = 1, []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip():
            begin = begin if paragraph else number
            paragraph.append(line)
        if paragraph and not (blank and line.strip()):
            yield begin, "\n".join(paragraph)
            paragraph = []


def _json_lines(text: str, name: str, column: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number},"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ComposerError(f"{where} is no JSON: write one object a line.") from None
        if not isinstance(row, dict):
            raise ComposerError(f'{where} is no object: write one a line, such as {{"text": "..."}}.')
        if column not in row:
            raise _no_column(where, column, row)
        if not isinstance(row[column], str):
            raise ComposerError(
                f"{where} has no text in {sanitize(column)}: put it in quotes, or leave it out."
            )
        yield number, row[column]


def _csv_rows(text: str, name: str, column: str) -> Iterator[tuple[int, str]]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, column), strict=True)
    try:
        header = [field.strip() for field in next(row for row in rows if row)]
        if column not in header:
            raise _no_column(f"{name}, line 1,", column, header)
        place, line = header.index(column), rows.line_num + 1
        for row in rows:
            # A row may have line breaks inside quotes: its own line is where it begins.
            if len(row) > place:
                yield line, row[place]
            elif row:
                raise ComposerError(
                    f"{name}, line {line}, has {len(row)} fields where the header has {len(header)}: "
                    "put quotes around a text with commas or line breaks."
                )
            line = rows.line_num + 1
    except csv.Error as fault:
        raise ComposerError(
            f"{name} is no CSV (line {rows.line_num}, {sanitize(fault)}): correct its quotes."
        ) from None


def _delimiter(text: str, column: str) -> str:
    """The comma, or what some spreadsheets put in its place: the one that makes `column` a field."""
    header = text.lstrip("\n").partition("\n")[0]
    fields = {mark: [field.strip(' "') for field in header.split(mark)] for mark in ",;\t"}
    return next((mark for mark in fields if column in fields[mark]), ",")


def _no_column(where: str, column: str, there: Sequence[str] | dict[str, object]) -> ComposerError:
    names = ", ".join(sanitize(name, 40) for name in [*there][:20])
    return ComposerError(
        f"{where} has no {sanitize(column)}; it has {names or 'nothing'}: choose one with --column."
    )


def _check(text: str, where: str) -> None:
    if len(text) > LONGEST:
        raise ComposerError(
            f"{where} has a text of {len(text)} characters: split it into parts below {LONGEST}."
        )
    # In JSON both can be written as escapes.
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ComposerError(f"{where} has a character that is none (NUL or half a pair): remove it.")


def _name(path: Path) -> str:
    return sanitize(path.name or path)

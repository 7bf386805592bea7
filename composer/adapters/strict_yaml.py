"""YAML read strictly: every key by its type, no key twice, none left over."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from composer.core.errors import ComposerError
from composer.core.sanitize import sanitize

REQUIRED = object()


def read_yaml(path: Path) -> Entry:
    """The document as an Entry. Raises ComposerError for an unreadable file or broken YAML."""
    try:
        document = yaml.load(path.read_text("utf-8"), Loader=_UniqueKeys)
    except OSError:
        raise ComposerError(f"The catalog {sanitize(path.name)} cannot be read: check its name.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as fault:
        mark = getattr(fault, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        what = getattr(fault, "problem", None) or "it is no UTF-8 YAML text"
        raise ComposerError(f"The catalog is not valid YAML{where}, {sanitize(what)}: correct it.") from None
    return Entry(document, "", path.resolve().parent)


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, except that a key written twice is a fault: plain YAML keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key.value, str)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{sanitize(key.value)} is written twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Entry:
    """A mapping of the catalog that knows its place in it, reads keys by type and notes which it read."""

    def __init__(self, value: object, where: str, folder: Path) -> None:
        self.where, self.folder = where, folder
        self.read: set[str] = set()
        if not isinstance(value, Mapping):
            raise self.fault("", "must be a mapping of keys to values")
        self.values = value

    def fault(self, key: str, cure: str) -> ComposerError:
        place = ".".join(part for part in (self.where, key) if part) or "The catalog"
        return ComposerError(f"Catalog: {sanitize(place, 120)} {cure}.")

    def get(self, key: str, kind: type | tuple[type, ...], default: object = REQUIRED, cure: str = "") -> Any:
        self.read.add(key)
        value = self.values.get(key, default)
        if value is REQUIRED:
            raise self.fault(key, "is missing: add it")
        if value is default:
            return value
        # bool is an int to Python; in a catalog `step: true` is a slip.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.fault(key, (cure or f"must be {_KINDS[kind]}") + _as_read(value, kind))
        return value

    def text(self, key: str, default: object = REQUIRED, limit: int = 200) -> Any:
        value = self.get(key, str, default)
        if isinstance(value, str) and (len(value) > limit or (default is REQUIRED and not value.strip())):
            raise self.fault(key, f"must be a text of 1 to {limit} characters")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(key, default)
        if value not in choices:
            raise self.fault(key, f"is {sanitize(value)!r}: choose one of {', '.join(choices)}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key, (int, float), default)
        if not math.isfinite(value):
            raise self.fault(key, "must be a finite number")
        return float(value)

    def entries(self, key: str, default: object = REQUIRED) -> dict[str, Entry]:
        """The named entries below `key`."""
        group = self.get(key, Mapping, default)
        for name in group:
            if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,39}", name):
                raise self.fault(
                    f"{key}.{name}",
                    "needs a name of lower-case letters, digits, '.', '_' and '-'" + _as_read(name, str),
                )
        return {name: self.below(key, value, name) for name, value in group.items()}

    def below(self, key: str, value: object, name: object = "") -> Entry:
        place = (self.where, key, str(name))
        return Entry(value, ".".join(part for part in place if part), self.folder)

    def done(self) -> None:
        """Raises if a key was never read: it is misspelt or in the wrong place."""
        unknown = [key for key in self.values if key not in self.read]
        if unknown and not isinstance(unknown[0], str):
            raise self.fault("", f"has a key{_as_read(unknown[0], str)}")
        if unknown:
            known = ", ".join(sorted(self.read))
            raise self.fault(unknown[0], f"is no key of the catalog: remove it or choose one of {known}")


_KINDS = {
    str: "a text",
    bool: "true or false",
    Mapping: "a mapping of names to entries",
    list: "a list",
    (int, float): "a number",
}


def _as_read(value: object, kind: type | tuple[type, ...]) -> str:
    """What to add where YAML made something else of a text than was meant."""
    if kind is str and value is None:
        return ", but nothing is there: YAML leaves out what follows a #, and null and ~, so put it in quotes"
    if kind is str and isinstance(value, (bool, int, float, date)):
        return (
            f", but YAML reads it as {type(value).__name__} {sanitize(value, 40)}, as it does with no, on, "
            "1, 1.0 and dates: put it in quotes"
        )
    if kind == (int, float) and isinstance(value, str):
        return f", but YAML reads {sanitize(value, 40)} as a text: write it without quotes, and 1e3 as 1000"
    return ""


def quoted(entry: Entry, key: str, values: Iterable[object], cure: str) -> None:
    """Raise a fault for the first of some names that YAML did not read as a text. cure: what they must be."""
    for value in values:
        if not isinstance(value, str):
            raise entry.fault(key, cure + _as_read(value, str))


@contextmanager
def forbid_unknown_keys(entry: Entry) -> Iterator[Entry]:
    """The entry; on leaving, every key of it must have been read."""
    yield entry
    entry.done()


@contextmanager
def as_fault(entry: Entry, key: str) -> Iterator[None]:
    """Raises a fault of a value's own check as one of the catalog's key."""
    try:
        yield
    except ComposerError as fault:
        raise entry.fault(key, f"is refused; {str(fault).rstrip('.')}") from None

"""The lines of adapters.yaml that describe a new adapter, and putting them there without touching others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from composer.adapters.catalog import load_catalog
from composer.adapters.catalog_inheritance import LIKE
from composer.adapters.catalog_schema import Name
from composer.adapters.hub import valid_repo_id
from composer.core.assets import catalog_file
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError, sanitize
from composer.training.own_texts.colors import free_color


def check_name(name: str) -> None:
    """Raise ComposerError for what the catalog takes for no adapter's name."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as fault:
        raise ComposerError(f"The adapter {sanitize(name)} {fault.errors()[0]['msg']}.") from None


def describe(name: str, folder: Path, catalog: Path, base: BaseSpec, blurb: str) -> dict[str, str]:
    """The adapter's entry: source, label, blurb and a colour that no adapter of the base has.

    folder: its files. The source is relative where the folder lies below the catalog's.
    """
    path, root = folder.resolve(), catalog.resolve().parent
    source = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    # A folder in a folder looks like a Hub repository, and would be one once it is gone.
    source = f"./{source}" if valid_repo_id(source) else source
    label = name.replace("-", " ").replace("_", " ")
    color = free_color([adapter.color for adapter in base.adapters])
    return {"source": source, "label": label[:1].upper() + label[1:], "blurb": blurb[:200], "color": color}


def lines(name: str, entry: Mapping[str, str], indent: int = 6) -> str:
    """The entry as it stands below a base's `adapters:`, ending in a line break. indent: of the name."""
    rows = [" " * indent + f"{_scalar(name)}:"]
    rows += [" " * (indent + 2) + f"{key}: {_scalar(value)}" for key, value in entry.items()]
    return "\n".join(rows) + "\n"


def _scalar(text: str) -> str:
    """The text as one YAML scalar, in quotes where YAML would take it for something else."""
    return yaml.safe_dump(text, allow_unicode=True, width=10**6).removesuffix("...\n").rstrip("\n")


def add_to_catalog(path: str | Path, base: str, name: str, entry: Mapping[str, str]) -> None:
    """Put the adapter below those of the base, or raise ComposerError and leave the file as it is.

    What is there, comments included, stays byte for byte.
    """
    file = _own_file(path)
    before = load_catalog(file).base(base)
    text = file.read_bytes().decode("utf-8")
    changed = _inserted(text, base, name, entry)
    handle, fresh = tempfile.mkstemp(dir=file.parent, prefix=".adapters-", suffix=".yaml")
    try:
        with open(handle, "wb") as out:
            out.write(changed.encode("utf-8"))
        after = load_catalog(fresh).base(base)
        if after.adapters[:-1] != before.adapters or after.names[-1] != name:
            raise _by_hand(base)
        os.chmod(fresh, file.stat().st_mode & 0o777)
        os.replace(fresh, file)
    finally:
        Path(fresh).unlink(missing_ok=True)


def _own_file(path: str | Path) -> Path:
    file = catalog_file(path)
    if file != Path(path):
        raise ComposerError(
            "There is no adapters.yaml here, only the one that is installed with the package: name your own "
            "with --catalog, or add the adapter's folder on the page, under Adapters."
        )
    return file.resolve()


def check_addable(path: str | Path, base: str, name: str) -> None:
    """Raise ComposerError, before any work, if `add_to_catalog` could not."""
    file = _own_file(path)
    if not os.access(file.parent, os.W_OK):
        raise ComposerError(f"The catalog's folder {sanitize(file.parent, 200)} cannot be written.")
    _inserted(file.read_bytes().decode("utf-8"), base, name, {"source": "x"})


def _inserted(text: str, base: str, name: str, entry: Mapping[str, str]) -> str:
    """The catalog's text with the entry after the base's last adapter."""
    bases = _bases(text)
    node = _value(bases, _holder(bases, base))
    adapters = _value(node, "adapters")
    if _in_lines(adapters):
        indent, head = adapters.value[0][0].start_mark.column, ""
    elif adapters is None and _in_lines(node):
        indent = node.value[0][0].start_mark.column + 2
        head = " " * (indent - 2) + "adapters:\n"
    else:
        raise _by_hand(base)
    place = _end_of_line(text, _last_line(adapters or node))
    joint = "" if text[:place].endswith("\n") else "\n"
    added = joint + head + lines(name, entry, indent)
    if "\r\n" in text:
        added = added.replace("\n", "\r\n")
    return text[:place] + added + text[place:]


def holder(path: str | Path, base: str) -> str:
    """The base below which the base's adapters stand: another one where it is `like` that and states none."""
    return _holder(_bases(catalog_file(path).read_bytes().decode("utf-8")), base)


def _holder(bases: yaml.Node | None, base: str) -> str:
    node = _value(bases, base)
    parent = _value(node, LIKE)
    return base if parent is None or _value(node, "adapters") is not None else _holder(bases, parent.value)


def _bases(text: str) -> yaml.Node | None:
    return _value(yaml.compose(text, Loader=yaml.SafeLoader), "bases")


def _in_lines(node: yaml.Node | None) -> bool:
    """Whether it is a mapping with entries, each on lines of its own (not in braces)."""
    return isinstance(node, yaml.MappingNode) and bool(node.value) and not node.flow_style


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _last_line(node: yaml.Node) -> int:
    """The line, counted from 0, that the node's text ends on; its end mark is beyond comments that follow."""
    while _in_lines(node) or (isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value):
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node.end_mark.line - (node.end_mark.column == 0)


def _end_of_line(text: str, line: int) -> int:
    place = 0
    for _ in range(line + 1):
        end = text.find("\n", place)
        if end < 0:
            return len(text)
        place = end + 1
    return place


def _by_hand(base: str) -> ComposerError:
    return ComposerError(
        f"The catalog writes the adapters of {sanitize(base)} in a way that --add does not know: put the "
        "lines in by hand."
    )

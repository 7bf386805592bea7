"""Paths as people write them, in the catalog and when an adapter is added; what YAML makes of texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.adapters.catalog import load_catalog
from composer.adapters.files import local_folder
from composer.adapters.hub import inspect
from composer.core.errors import ComposerError
from composer.ui.validation import check_source
from tests.tools.adapters import adapter_files, write_adapter

CATALOG = """
default: tiny
bases:
  tiny:
    id: me/tiny
    folder: {folder}
    attributes:
      mood: {{members: [joy, sad]}}
    adapters:
      joy: {{source: {source}}}
      sad: {{source: me/sad}}
"""


def catalog(tmp_path: Path, source: str = "me/joy", folder: str = "base", **changes: str):
    (tmp_path / "cat").mkdir(exist_ok=True)
    text = CATALOG.format(source=source, folder=folder)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "cat" / "adapters.yaml"
    path.write_text(text)
    return load_catalog(path).base()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with an adapter in a folder whose name has spaces, and links to it."""
    folder = tmp_path / "home"
    write_adapter(folder / "my models" / "joy", adapter_files())
    monkeypatch.setenv("HOME", str(folder))
    (tmp_path / "cat").mkdir()
    write_adapter(tmp_path / "cat" / "own adapters" / "joy", adapter_files())
    (tmp_path / "cat" / "link").symlink_to(tmp_path / "cat" / "own adapters")
    (folder / "link").symlink_to(folder / "my models")
    return folder


WRITTEN = {
    "the home folder": ("'~/my models/joy'", "home/my models/joy"),
    "a slash at the end": ("'~/my models/joy/'", "home/my models/joy"),
    "a link in the home folder": ("~/link/joy", "home/my models/joy"),
    "dots": ("'~/link/../my models/./joy'", "home/my models/joy"),
    "spaces": ("own adapters/joy", "cat/own adapters/joy"),
    "relative": ("'./own adapters/joy//'", "cat/own adapters/joy"),
    "a link": ("link/joy", "cat/own adapters/joy"),
    "a link, to a slash": ("link/joy/", "cat/own adapters/joy"),
    "as Windows writes it": (r"'own adapters\joy'", "cat/own adapters/joy"),
    "as Windows writes it, from here": (r"'.\own adapters\joy\'", "cat/own adapters/joy"),
}


@pytest.mark.parametrize(("written", "meant"), WRITTEN.values(), ids=WRITTEN)
def test_paths_in_the_catalog_lead_where_they_say(written, meant, home, tmp_path):
    base = catalog(tmp_path, written, written)
    assert Path(base.adapters[0].source) == (tmp_path / meant).resolve()
    assert Path(base.folder) == (tmp_path / meant).resolve()
    assert inspect(base.adapters[0].source).folder.samefile(tmp_path / meant)


@pytest.mark.parametrize("written", ["~nobody-of-this-name/x", "~/../../..", "'../x'", r"'..\x'", "'a\\0b'"])
def test_paths_that_lead_nowhere_or_outside_are_reported(written, home, tmp_path):
    if written == "~/../../..":
        assert catalog(tmp_path, written).adapters[0].source == str((home / "../../..").resolve())
        return
    if written == r"'..\x'":
        (tmp_path / "x").mkdir()
    if written == "'a\\0b'":
        written = '"a\\0b"'
    with pytest.raises(ComposerError, match=r"joy\.source (leaves|is)"):
        catalog(tmp_path, written)


def test_a_folder_called_like_a_variable_is_that_folder(home, tmp_path):
    write_adapter(tmp_path / "cat" / "$HOME" / "joy", adapter_files())
    assert catalog(tmp_path, "$HOME/joy").adapters[0].source == str(tmp_path / "cat" / "$HOME" / "joy")


PASTED = {
    "as it is": "{home}/my models/joy",
    "the home folder": "~/my models/joy",
    "a slash at the end": "~/my models/joy/",
    "blanks around it": "  ~/my models/joy \n",
    "in quotes": "'{home}/my models/joy'",
    "in double quotes": '"~/my models/joy"',
    "as a shell writes it": r"~/my\ models/joy",
    "as Windows writes it": r"{home}\my models\joy",
    "a link": "~/link/joy",
}


@pytest.mark.parametrize("written", PASTED.values(), ids=PASTED)
def test_paths_that_are_typed_or_pasted_lead_where_they_say(written, home):
    text = written.format(home=home)
    assert local_folder(text).samefile(home / "my models" / "joy")
    files = inspect(text)
    assert files.name == "joy" and files.folder.samefile(home / "my models" / "joy")
    assert Path(check_source(text, folders=True)[0]).samefile(home / "my models" / "joy")
    with pytest.raises(ComposerError, match="Hub repo id"):
        check_source(text, folders=False)


@pytest.mark.parametrize("text", ["", " ", "\0", "~nobody-of-this-name", "x" * 5000, "a\\b", "''", "\ud800"])
def test_texts_that_name_no_folder(text):
    assert local_folder(text) is None
    with pytest.raises(ComposerError):
        inspect(text)


def test_here_is_called_by_its_own_name(home, monkeypatch):
    monkeypatch.chdir(home / "my models" / "joy")
    assert inspect(".").name == "joy"


# --- what YAML makes of a text -------------------------------------------------------------------

READ = {
    "members": {"joy, sad": "no, yes"},
    "a name that is a truth": {"joy: {": "no: {"},
    "another": {"joy: {": "on: {"},
    "a name that is a number": {"joy: {": "1: {"},
    "a name that is a float": {"joy: {": "1.0: {"},
    "a name with an exponent": {"joy: {": "1.0e+3: {"},
    "a name that is nothing": {"joy: {": "null: {"},
    "another that is nothing": {"joy: {": "~: {"},
    "a name that is a date": {"joy: {": "2024-01-01: {"},
    "an attribute that is a truth": {"mood: {": "off: {"},
    "a base that is a number": {"  tiny:": "  7:"},
    "the default is a truth": {"default: tiny": "default: yes"},
    "a source that is a number": {"source: me/sad": "source: 12"},
    "a label that is a date": {"source: me/sad": "source: me/sad, label: 2024-01-01"},
    "a label that is a time": {"source: me/sad": "source: me/sad, label: 12:30:45"},
    "a label that is nothing": {"source: me/sad": "source: me/sad, label: null"},
    "a colour that is a comment": {"{source: me/sad}": "\n        source: me/sad\n        color: #ffffff"},
    "a revision that is a number": {"source: me/sad": f"source: me/sad, revision: {'1' * 40}"},
    "a key that is a truth": {"source: me/sad": "source: me/sad, on: 1"},
}


@pytest.mark.parametrize("changes", READ.values(), ids=READ)
def test_what_yaml_reads_as_something_else_is_to_be_put_in_quotes(changes, tmp_path):
    with pytest.raises(ComposerError) as error:
        catalog(tmp_path, **changes)
    assert "put it in quotes" in str(error.value) or "must be a quoted" in str(error.value)
    assert str(error.value).startswith("Catalog: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["no", "on", "1", "1e3", "null", "2024-01-01"])
def test_in_quotes_they_are_names(name, tmp_path):
    base = catalog(tmp_path, **{"joy: {": f"'{name}': {{", "[joy,": f"['{name}',"})
    assert base.names == (name, "sad") and base.attributes[0].members == (name, "sad")


def test_a_number_that_yaml_reads_as_a_text_is_to_be_written_out(tmp_path):
    with pytest.raises(
        ComposerError, match=r"slider\.maximum must be a number, but .*write it without quotes"
    ):
        catalog(tmp_path, **{"source: me/sad": "source: me/sad, slider: {maximum: 1e0}"})
    assert catalog(tmp_path, **{"source: me/sad": "source: me/sad, slider: {maximum: 1}"})

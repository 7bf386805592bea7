"""A new adapter's lines of the catalog: they load, and nothing else of the file changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from composer.adapters.catalog import load_catalog
from composer.core.errors import ComposerError
from composer.training.own_texts.catalog_lines import (
    add_to_catalog,
    check_addable,
    check_name,
    describe,
    holder,
    lines,
)
from composer.training.own_texts.colors import free_color

ENTRY = {"source": "./made/on", "label": "On: and off", "blurb": "Learnt # from 'these'", "color": "#866013"}
FORMS = {
    "with adapters": "default: a\nbases:\n  a:\n    id: b/c\n    adapters:\n      x: {source: d/e}  # why\n"
    "      # of the end\n\n  z: {id: b/c}\n",
    "nested wider": "bases:\n    a:\n        adapters:\n            x:\n                source: d/e\n"
    "                slider: {minimum: -1}\n        id: b/c\n\ndefault: a",
    "without adapters": "default: a\nbases:\n  a:\n    id: b/c # hi\n# end\nexamples: []\n",
    "windows": "default: a\r\nbases:\r\n  a:\r\n    id: b/c\r\n    adapters:\r\n      x:\r\n"
    "        source: d/e\r\nexamples: []\r\n",
    "a text of several lines": "default: a\nbases:\n  a:\n    id: b/c\n    adapters:\n      x:\n"
    "        source: d/e\n        blurb: |\n          one\n          two\n\nexamples: []\n",
}


def catalog(folder: Path, text: str) -> Path:
    path = folder / "adapters.yaml"
    path.write_bytes(text.encode("utf-8"))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_an_adapter_is_added_and_every_other_byte_stays(tmp_path, form):
    path = catalog(tmp_path, FORMS[form])
    path.chmod(0o640)
    before = load_catalog(path).base("a").adapters
    add_to_catalog(path, "a", "on", ENTRY)
    *others, added = load_catalog(path).base("a").adapters
    assert tuple(others) == before
    assert (added.name, added.label, added.description) == ("on", ENTRY["label"], ENTRY["blurb"])
    assert added.source == str(tmp_path / "made/on")
    now = path.read_bytes().decode("utf-8").splitlines(keepends=True)
    left = iter(now)
    assert all(line in left for line in FORMS[form].splitlines(keepends=True)[:-1]), "in their order"
    assert len({line.endswith("\r\n") for line in now[:-1]}) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["adapters.yaml"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_bundled_catalog_takes_one_for_each_base(tmp_path):
    for base in load_catalog("adapters.yaml").bases:
        path = Path(shutil.copy("adapters.yaml", tmp_path))
        add_to_catalog(path, base, "letters", ENTRY)
        assert load_catalog(path).base(base).names[-1] == "letters"


def test_a_base_that_is_like_another_has_its_adapters_there(tmp_path):
    path = Path(shutil.copy("adapters.yaml", tmp_path))
    assert holder(path, "smollm2-135m-nf4") == holder(path, "smollm2-135m") == "smollm2-135m"
    assert holder(path, "gemma3-270m") == "gemma3-270m"
    add_to_catalog(path, "smollm2-135m-nf4", "letters", ENTRY)
    assert load_catalog(path).base("smollm2-135m").names[-1] == "letters"


@pytest.mark.parametrize(
    "text",
    [
        "default: a\nbases: {a: {id: b/c, adapters: {x: {source: d/e}}}}\n",
        "default: a\nbases:\n  a:\n    id: b/c\n    adapters: {x: {source: d/e}}\n",
        "default: a\nbases:\n  a:\n    id: b/c\n    adapters: {}\n",
    ],
)
def test_what_it_cannot_add_to_is_told_before_and_left_as_it_is(tmp_path, text):
    path = catalog(tmp_path, text)
    for attempt in (lambda: check_addable(path, "a", "on"), lambda: add_to_catalog(path, "a", "on", ENTRY)):
        with pytest.raises(ComposerError, match="by hand"):
            attempt()
    assert path.read_text("utf-8") == text and len(os.listdir(tmp_path)) == 1


def test_lines_that_would_not_load_leave_the_catalog_as_it_is(tmp_path):
    path = catalog(tmp_path, FORMS["with adapters"])
    with pytest.raises(ComposerError, match=r"a\.adapters\.on\.color"):
        add_to_catalog(path, "a", "on", ENTRY | {"color": "red"})
    with pytest.raises(ComposerError, match="x is written twice"):
        add_to_catalog(path, "a", "x", ENTRY)
    assert path.read_text("utf-8") == FORMS["with adapters"] and len(os.listdir(tmp_path)) == 1


def test_the_installed_catalog_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ComposerError, match="--catalog"):
        check_addable("adapters.yaml", "smollm2-135m", "letters")


def test_the_printed_lines_are_what_is_added(tmp_path):
    path = catalog(tmp_path, FORMS["with adapters"])
    add_to_catalog(path, "a", "on", ENTRY)
    assert lines("on", ENTRY) in path.read_text("utf-8")


@pytest.mark.parametrize("name", ["Letters", "", "a b", "../a", "é", "x" * 41, "-a"])
def test_a_name_that_the_catalog_does_not_take_is_refused(name):
    with pytest.raises(ComposerError, match="needs a name of lower-case letters"):
        check_name(name)


def test_an_entry_is_relative_below_the_catalog_and_in_full_elsewhere(tmp_path):
    base = load_catalog("adapters.yaml").base("smollm2-135m")
    path = tmp_path / "in" / "adapters.yaml"
    inside = describe("my-letters", path.parent / "made" / "my-letters", path, base, "Learnt.")
    assert inside["source"] == "./made/my-letters" and inside["label"] == "My letters"
    outside = describe("x", tmp_path / "out" / "x", path, base, "y" * 300)
    assert outside["source"] == str(tmp_path / "out" / "x") and len(outside["blurb"]) == 200


def test_a_colour_is_none_that_is_there():
    taken = [each.color for each in load_catalog("adapters.yaml").base("smollm2-135m").adapters]
    for _ in range(6):
        color = free_color(taken)
        parts, others = bytes.fromhex(color[1:]), [bytes.fromhex(each[1:]) for each in taken]
        assert min(sum(abs(a - b) for a, b in zip(parts, other, strict=True)) for other in others) > 30
        taken.append(color)
    assert free_color([]) == free_color([])

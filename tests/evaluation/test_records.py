"""A run that was cut off goes on where it stopped."""

import pytest

from composer.core.errors import ComposerError
from composer.evaluation.records import Records, digest
from composer.evaluation.texts import Text

ONE = Text("k1", "base", "The book", 0, " is é\u2028 old", 12.5)
TWO = Text("k2", "sports", "The book", 0, "", None)


def test_texts_come_back(tmp_path):
    path = tmp_path / "new" / "texts.jsonl"
    Records(path, Text).add([ONE])
    again = Records(path, Text)
    again.add([TWO])
    last = Records(path, Text)
    assert (last.get("k1"), last.get("k2"), last.get("k3")) == (ONE, TWO, None)


def test_a_line_cut_short_is_dropped_and_the_rest_kept(tmp_path):
    path = tmp_path / "texts.jsonl"
    Records(path, Text).add([ONE, TWO])
    path.write_text(path.read_text("utf-8")[:-20], "utf-8")
    cut = Records(path, Text)
    assert cut.get("k1") == ONE and cut.get("k2") is None
    cut.add([TWO])
    assert Records(path, Text).get("k2") == TWO


def test_a_damaged_file_says_what_to_do(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"other": 1}\n')
    with pytest.raises(ComposerError, match="delete it"):
        Records(path, Text)


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ComposerError, match="--out"):
        Records(tmp_path / "file" / "texts.jsonl", Text)


def test_a_digest_changes_with_any_part():
    same = digest("a", {"x": 1, "y": 2}, 3)
    assert same == digest("a", {"y": 2, "x": 1}, 3)
    assert len({same, digest("b", {"x": 1, "y": 2}, 3), digest("a", {"x": 1, "y": 3}, 3), digest("a3")}) == 4


def test_what_is_packed_counts_and_a_run_goes_on_from_it(tmp_path):
    path = tmp_path / "texts.jsonl"
    first = Records(path, Text)
    first.add([TWO, ONE])
    first.pack()
    assert [each.name for each in tmp_path.iterdir()] == ["texts.jsonl.gz"]
    bytes_then = (tmp_path / "texts.jsonl.gz").read_bytes()
    again = Records(path, Text)
    changed = Text("k2", "sports", "The book", 0, " later", 3.0)
    again.add([changed])
    last = Records(path, Text)
    assert (last.get("k1"), last.get("k2")) == (ONE, changed)
    last.pack()
    assert Records(path, Text).get("k2") == changed and not path.exists()
    other = Records(tmp_path / "other" / "texts.jsonl", Text)
    other.add([ONE, TWO])
    other.pack()
    assert (tmp_path / "other" / "texts.jsonl.gz").read_bytes() == bytes_then, "the same records, same bytes"


def test_packing_keeps_what_another_run_has_added_meanwhile(tmp_path):
    path = tmp_path / "texts.jsonl"
    reports = Records(path, Text)
    Records(path, Text).add([ONE])
    reports.pack()
    assert Records(path, Text).get("k1") == ONE


def test_a_damaged_packed_file_says_what_to_do(tmp_path):
    path = tmp_path / "texts.jsonl"
    for content in (b"no gzip", b"\x1f\x8b\x08 broken"):
        path.with_name("texts.jsonl.gz").write_bytes(content)
        with pytest.raises(ComposerError, match=r"texts\.jsonl\.gz .*delete it"):
            Records(path, Text)

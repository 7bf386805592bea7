"""docs/faults.md: every fault has a test that exists, and every sentence is one of the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/faults.md").read_text("utf-8").splitlines()
    if re.match(r"\| \d", line)
]


@pytest.fixture(scope="module")
def sentences() -> str:
    """All sources, with texts that go on in the next line in one piece."""
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "composer").rglob("*.py"))
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", sources).lower()


def test_there_are_forty():
    assert len({row[1] for row in ROWS}) == len(ROWS) >= 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_fault_has_its_test_and_its_sentence(row, sentences):
    _, _, said, recovers, link = row
    words, file = re.fullmatch(r"\[(.+)\]\(\.\./(.+)\)", link).groups()
    assert f"def test_{words.replace(' ', '_')}(" in (ROOT / file).read_text("utf-8")
    assert recovers
    if not said.startswith("-") and not file.startswith("tests/browser/test_newcomer"):
        assert said.lower() in sentences

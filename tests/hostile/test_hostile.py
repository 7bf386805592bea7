"""What strangers write is read, or refused in one sentence that can be shown, in a bounded time."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest

from tests.hostile.mutations import MAKERS, Mutator
from tests.hostile.readers import READERS, fault_of, outcome

CASES = json.loads((Path(__file__).parent / "cases.json").read_text("utf-8"))
# Seconds. Most take a millisecond; the machine may be busy.
LONGEST = 5
RANDOM = 40


def checked(kind: str, data: bytes, folder: Path) -> str:
    began = time.process_time()
    found = outcome(kind, data, folder)
    assert time.process_time() - began < LONGEST
    assert fault_of(found, folder) is None, (found, data[:300])
    return found


def test_there_are_saved_cases_of_every_reader():
    assert len(CASES) >= 200
    assert {case["reader"] for case in CASES} == set(READERS) == set(MAKERS)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_saved_case_ends_as_it_did(case, tmp_path):
    found = checked(case["reader"], base64.b64decode(case["bytes"]), tmp_path)
    assert (found == "ok") == case["ok"], found


@pytest.mark.parametrize("kind", READERS)
def test_nothing_else_comes_of_random_changes(kind, tmp_path):
    mutator = Mutator(seed=19)
    found = [checked(kind, mutator.bytes_for(kind), tmp_path) for _ in range(RANDOM)]
    assert any(each != "ok" for each in found) or kind == "card"

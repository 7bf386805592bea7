"""requirements.lock pins what requirements.txt asks for, each with the hashes of its files."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([a-z0-9.-]+)==([^ ;\\]+)", re.MULTILINE)
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
PINNED = dict(PIN.findall(LOCK))


def asked() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def test_every_requirement_is_pinned_within_its_bounds():
    for each in asked():
        assert each.specifier.contains(PINNED[each.name.lower()]), each


def test_torch_is_the_version_that_is_tested():
    [tested] = re.findall(r"^TORCH := (\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert PINNED["torch"] == tested


def test_every_pin_has_hashes_and_nothing_comes_from_elsewhere():
    blocks = re.split(r"\n(?=[a-z0-9])", LOCK)
    pins = [block for block in blocks if PIN.match(block)]
    assert len(pins) == len(PIN.findall(LOCK)) > 60
    for block in pins:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), block.splitlines()[0]
    assert "://" not in LOCK and "--index" not in LOCK and "--find-links" not in LOCK

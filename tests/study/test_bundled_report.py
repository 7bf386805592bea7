"""The bundled study loads, and its report comes out as it is stored."""

from __future__ import annotations

import json
import shutil

from composer.cli.main import main
from composer.core.assets import ASSETS


def known(report: dict) -> dict:
    """Without what names the machine."""
    return {name: value for name, value in report.items() if name != "machine"}


def lines(markdown: str) -> list[str]:
    return [line for line in markdown.splitlines() if not line.startswith("Made by ")]


def test_the_bundled_studys_report_is_the_stored_one(tmp_path, capsys):
    stored, made = ASSETS / "study", tmp_path / "study"
    made.mkdir()
    for name in ("texts.jsonl.gz", "scores.jsonl.gz"):
        shutil.copy(stored / name, made)
    argv = ["study", "--report", "--out", str(made), "--seeds", "3", "--sweep-prompts", "14"]
    assert main(argv) == 0, capsys.readouterr().err
    got, expected = ((folder / "report.md").read_text("utf-8") for folder in (made, stored))
    assert lines(got) == lines(expected)
    got, expected = (json.loads((folder / "report.json").read_text("utf-8")) for folder in (made, stored))
    assert known(got) == known(expected)

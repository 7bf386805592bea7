"""Figures of the last runs: what a partial run leaves as it was, and what it must not."""

from __future__ import annotations

from benchmarks.store import publish, stored
from tests.benchmarks.test_report import results

ONLY = "python -m composer bench --only preview"


def partial(**machine) -> dict:
    """A later run that measured the preview alone, and found it quicker."""
    whole = results()
    preview = {**whole["preview"], "p95": 0.1}
    kept = {key: whole[key] for key in ("device", "base")}
    return {
        **kept,
        "machine": {**whole["machine"], "load": 1.5, **machine},
        "command": ONLY,
        "preview": preview,
    }


def test_a_partial_run_keeps_the_other_sections_and_says_whose_they_are(tmp_path):
    publish(tmp_path, results(), stored(tmp_path))
    report = publish(tmp_path, partial(), stored(tmp_path))
    now = stored(tmp_path)["cpu"]
    assert now["preview"]["p95"] == 0.1 and now["single"] == results()["single"]
    assert "The section single is of an earlier run, `python -m composer bench`" in report
    assert "section preview" not in report and f"Made by `{ONLY}`" in report
    # Whose figures they are is not forgotten by a third run.
    assert "single is of an earlier run, `python -m composer bench`" in publish(
        tmp_path, partial(), stored(tmp_path)
    )


def test_figures_of_another_machine_do_not_stand_beside_these(tmp_path):
    publish(tmp_path, results(), stored(tmp_path))
    report = publish(tmp_path, partial(cpu="Another CPU"), stored(tmp_path))
    assert "single" not in stored(tmp_path)["cpu"] and "earlier run" not in report

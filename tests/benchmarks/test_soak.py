"""The soak in its short form: a tiny base, eight programs and a browser, faults, and every answer compared.

Nothing is asserted of how long anything took: other tests run beside it.
"""

from __future__ import annotations

import pytest

from benchmarks.soak.check import check
from benchmarks.soak.faults import NAMES
from benchmarks.soak.plan import SoakPlan
from benchmarks.soak.report import as_markdown, passed
from benchmarks.soak.run import soak
from benchmarks.soak.solo import Solo
from tests.benchmarks.soak_world import tiny_world

PLAN = SoakPlan(seconds=60, warm_up=15, visitors=8, browsers=1, tokens=24, thinking=1.0, fault_every=2.5)


@pytest.mark.timeout(1500)  # a machine that trains beside it takes many times as long
def test_eight_visitors_and_a_browser_get_what_they_would_get_alone(tmp_path):
    world, folder = tiny_world(tmp_path), tmp_path / "soak"
    folder.mkdir()
    made = soak(world, PLAN, folder, {"COMPOSER_COMPILE": "0"})
    found = check(made.recorder, Solo(world, compile_step=False), made.happened)
    assert found.wrong == []
    assert made.crashes == []
    assert made.not_freed == []
    assert found.answers.total() >= PLAN.visitors and found.tokens > 0
    assert {name for _, name in made.injected} <= set(NAMES)
    assert passed(made, found)
    report = as_markdown(made, found, world, PLAN, "make soak")
    assert "| wrong answers | 0 | 0 | yes |" in report and "cores, Python" in report

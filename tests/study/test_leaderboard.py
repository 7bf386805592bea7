"""The table that report, page and docs share: its order and cells; docs/study.md has the bundled one."""

import json
from pathlib import Path

from composer.evaluation.metrics import Interval
from composer.study.design.arms import ARMS
from composer.study.reporting.leaderboard import standings
from composer.study.statistics.summary import ArmMetrics, ArmSummary

ROOT = Path(__file__).parents[2]
ALL = {arm.name: arm for arm in ARMS}


def around(value):
    return Interval(value, value - 0.1, value + 0.1)


def measured(value, spread=9.0, gap=None):
    return ArmMetrics(30, around(value), spread, 0.0, {} if gap is None else {"sum": around(gap)})


def line(arm, one, best=None, strengths=(), fluent=True):
    return ArmSummary(arm, one, best, strengths, fluent and best is not None, {})


def test_fluent_ones_come_first_and_say_at_which_strength():
    table = standings(
        [
            line("sum", measured(0.8, 22.0), measured(0.5), (0.5, 0.75)),
            line("logo", None, measured(0.9), (1.0,)),
            line("ties", measured(0.6), measured(0.7, None, gap=0.2), (1.25,)),
            line("cosine", measured(0.55)),
            line("peft-linear", measured(0.9, 99.0), measured(0.9, 99.0, gap=0.4), (1.0,), fluent=False),
        ],
        ALL,
    )
    assert table.head[-1] == "minus sum, fluent"
    assert table.rows == (
        (
            "TIES",
            "60.0% [50.0, 70.0]",
            "9.0",
            "70.0% [60.0, 80.0]",
            "-",
            "1.25",
            "+20.0 [+10.0, +30.0] excludes 0",
        ),
        ("Sum", "80.0% [70.0, 90.0]", "22.0", "50.0% [40.0, 60.0]", "9.0", "0.5 / 0.75", "-"),
        ("PEFT linear", "90.0% [80.0, 100.0]", "99.0", "-", "-", "-", "-"),
        ("Cosine", "55.0% [45.0, 65.0]", "9.0", "-", "-", "-", "-"),
    )


def test_readme_shows_the_bundled_study_s_table():
    bundled = json.loads((ROOT / "assets/study/report.json").read_text("utf-8"))["standings"]
    assert bundled.count("\n") > 20 and bundled in (ROOT / "docs/study.md").read_text("utf-8")
    assert bundled in (ROOT / "assets/study/report.md").read_text("utf-8")

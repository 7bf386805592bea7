"""The table of all ways: its order and its cells."""

from composer.evaluation.metrics import Interval
from composer.study.design.arms import all_arms
from composer.study.design.claims import CHOSEN, ONE
from composer.study.reporting.leaderboard import standings
from composer.study.statistics.claims_summary import ArmRow


def around(value):
    return Interval(value, value - 0.1, value + 0.1)


def row(arm, setting, value, spread=9.0, *, strength=1.0, gap=None, fluent=True, **constants):
    minus = None if gap is None else around(gap)
    ratio = None if spread is None else spread / 9
    more = (value, value, (value,), spread, ratio, 0.0, minus, fluent)
    return ArmRow(arm, setting, constants, strength, 30, (around(value),), *more)


def test_fluent_ones_come_first_and_say_at_which_strength_and_constant():
    table = standings(
        [
            row("base", ONE, 0.3),
            row("single-topic", ONE, 0.95, 40.0),
            row("sum", ONE, 0.8, 22.0),
            row("sum", CHOSEN, 0.5, strength=0.5),
            row("ties", ONE, 0.6, gap=0.3),
            row("ties", CHOSEN, 0.7, None, strength=1.25, gap=0.2, density=0.2),
            row("linear", ONE, 0.9, 99.0),
            row("linear", CHOSEN, 0.4, 60.0, strength=0.5, gap=0.4, fluent=False),
            row("cosine", ONE, 0.55),
        ],
        all_arms(),
    )
    assert table.head[-1] == "minus sum of outputs, fluent"
    assert table.rows == (
        (
            "TIES",
            "60.0% [50.0%, 70.0%]",
            "9.0",
            "70.0% [60.0%, 80.0%]",
            "-",
            "1.25 (density 0.2)",
            "+20.0 [+10.0, +30.0] excludes 0",
        ),
        ("Sum of outputs", "80.0% [70.0%, 90.0%]", "22.0", "50.0% [40.0%, 60.0%]", "9.0", "0.5", "-"),
        ("Base", "30.0% [20.0%, 40.0%]", "9.0", "30.0% [20.0%, 40.0%]", "9.0", "1", "-"),
        ("Topic module alone", "95.0% [85.0%, 105.0%]", "40.0", "-", "-", "-", "-"),
        ("PEFT linear", "90.0% [80.0%, 100.0%]", "99.0", "-", "-", "-", "-"),
        ("Cosine fusion", "55.0% [45.0%, 65.0%]", "9.0", "-", "-", "-", "-"),
    )

"""What the page says of the study: only what a report of this very base holds."""

import json

import pytest

from composer.ui.studied import follows_prompt, standings


def report(folder, patterns, base="me/tiny"):
    path = folder / "report.json"
    path.write_text(json.dumps({"base": base, "patterns": patterns}), "utf-8")
    return path


def pattern(attribute, p):
    return {"attribute": attribute, "overall": {"gain": 0.1, "p": p, "prompts": 24}}


def test_each_attribute_has_its_verdict(tmp_path):
    told = follows_prompt("me/tiny", report(tmp_path, [pattern("mood", 0.01), pattern("topic", 0.9)]))
    assert "mood yes (p = 0.01, 24 prompts); topic not shown (p = 0.9, 24 prompts)." in told


def test_another_base_s_study_says_nothing(tmp_path):
    assert follows_prompt("me/other", report(tmp_path, [pattern("mood", 0.01)])) == ""


def test_no_study_says_nothing(tmp_path):
    assert follows_prompt("me/tiny", tmp_path / "report.json") == ""
    assert follows_prompt("me/tiny", report(tmp_path, [])) == ""


def measured(value, spread=9.0):
    return {"control": {"value": value, "low": value - 0.1, "high": value + 0.1}, "perplexity": spread}


def line(arm, one, best, strengths, fluent=True):
    return {"arm": arm, "one": one, "best": best, "strengths": strengths, "fluent": fluent}


def test_the_standings_have_the_best_first_and_say_at_which_strength(tmp_path):
    lines = [
        line("sum", measured(0.8, 22.0), measured(0.5), [0.5, 0.75]),
        line("gone", None, measured(0.9), [1.0]),
        line("calm", measured(0.6), measured(0.7, None), [1.25]),
        line("new", measured(0.55), None, []),
        line("wild", measured(0.9, 99.0), measured(0.9, 99.0), [1.0], fluent=False),
    ]
    path = tmp_path / "report.json"
    labels = {"sum": "Sum", "calm": "Calm", "new": "New", "wild": "Wild"}
    found = {"base": "me/tiny", "labels": labels, "kinds": {"pair": lines}, "unfinished": None}
    path.write_text(json.dumps(found), "utf-8")
    told = standings("me/tiny", path)
    path.write_text(json.dumps(found | {"unfinished": "1 of 2 texts"}), "utf-8")
    assert "not finished" in standings("me/tiny", path) and "not finished" not in told
    assert told.split("|---|---|---|---|---|---|\n")[1].splitlines() == [
        "| Calm | 60% [50%, 70%] | 9.0 | 70% [60%, 80%] | - | 1.25 |",
        "| New | 55% [45%, 65%] | 9.0 | - | - | - |",
        "| Sum | 80% [70%, 90%] | 22.0 | 50% [40%, 60%] | 9.0 | 0.5 / 0.75 |",
        "| Wild | 90% [80%, 100%] | 99.0 | - | - | - |",
    ]
    assert standings("me/other", path) == ""
    path.write_text(json.dumps({"base": "me/tiny", "labels": {}, "kinds": {"topic": lines}}), "utf-8")
    assert standings("me/tiny", path) == ""


@pytest.mark.parametrize(
    "content", ["no json", "[]", '{"base": "me/tiny"}', '{"base": "me/tiny", "patterns": [1]}']
)
def test_a_broken_report_costs_nobody_the_page(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_text(content)
    assert follows_prompt("me/tiny", path) == standings("me/tiny", path) == ""

"""What the page says of the study: only what a report of this very base holds."""

import json

import pytest

from composer.ui.views.study_results import follows_prompt, standings


def report(folder, patterns, base="me/tiny"):
    path = folder / "report.json"
    path.write_text(
        json.dumps({"runs": [{"base": base, "precision": "none", "patterns": patterns}]}), "utf-8"
    )
    return path


def pattern(attribute, p):
    return {"attribute": attribute, "overall": {"gain": 0.1, "p": p, "prompts": 24}}


def test_each_attribute_has_its_verdict(tmp_path):
    told = follows_prompt("me/tiny", "none", report(tmp_path, [pattern("mood", 0.01), pattern("topic", 0.9)]))
    assert "mood yes (p = 0.01, 24 prompts); topic not shown (p = 0.9, 24 prompts)." in told


def test_another_base_s_study_says_nothing(tmp_path):
    assert follows_prompt("me/other", "none", report(tmp_path, [pattern("mood", 0.01)])) == ""


def test_no_study_says_nothing(tmp_path):
    assert follows_prompt("me/tiny", "none", tmp_path / "report.json") == ""
    assert follows_prompt("me/tiny", "none", report(tmp_path, [])) == ""


def test_the_standings_are_the_study_s_own_table(tmp_path):
    path = tmp_path / "report.json"
    found = {
        "base": "me/tiny",
        "precision": "none",
        "standings": "| way |\n|---|\n| Sum |\n",
        "unfinished": None,
    }

    def write(run):
        others = [{"base": "me/first"}, {"base": "me/tiny", "precision": "nf4", "standings": None}]
        path.write_text(json.dumps({"runs": [*others, run]}), "utf-8")

    write(found)
    told = standings("me/tiny", "none", path)
    assert told.startswith("### Which one works?") and told.endswith(f"\n\n{found['standings']}")
    write(found | {"unfinished": "1 of 2 texts"})
    assert "not finished" in standings("me/tiny", "none", path) and "not finished" not in told
    assert standings("me/other", "none", path) == ""
    write(found | {"standings": None})
    assert standings("me/tiny", "none", path) == ""


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        '{"base": "me/tiny"}',
        '{"runs": 1}',
        '{"runs": [{"base": "me/tiny"}]}',
        '{"runs": [{"base": "me/tiny", "precision": "none", "patterns": [1], "standings": 1}]}',
    ],
)
def test_a_broken_report_leaves_the_page_working(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_text(content)
    assert follows_prompt("me/tiny", "none", path) == standings("me/tiny", "none", path) == ""


def test_a_run_at_another_precision_stands_in(tmp_path):
    path = report(tmp_path, [pattern("mood", 0.01)])
    assert follows_prompt("me/tiny", "nf4", path) == follows_prompt("me/tiny", "none", path) != ""

"""What is chosen on development prompts, and the guard that no report prompt had a say."""

import json
from dataclasses import replace

import pytest

from composer.core.errors import ComposerError
from composer.evaluation.prompts import DEVELOPMENT, REPORT, load_prompts, prompt_hash, prompts_of
from composer.study.design.choices import (
    Choices,
    Trial,
    check_choices,
    choose,
    read_choices,
    write_choices,
)

SAFE = prompts_of(load_prompts(), DEVELOPMENT)
UNSEEN = prompts_of(load_prompts(), REPORT)


def trial(control, perplexity, strength=1.0, arm="sum", **constants):
    return Trial(arm, constants, strength, 30, control, perplexity)


def made(prompts=SAFE, **changed):
    choices = Choices("a/base", 15.0, tuple(map(prompt_hash, prompts)), ("j",), choose([trial(0.5, 9)], 15))
    return replace(choices, **changed)


def test_the_highest_control_within_the_bound_is_chosen():
    found = choose([trial(0.6, 10, 0.75), trial(0.7, 15, 1.0), trial(0.9, 15.1, 1.25)], 15)["sum"]
    assert (found.strength, found.control, found.fluent) == (1.0, 0.7, True)


def test_of_equals_the_weaker_is_chosen():
    found = choose([trial(0.7, 12, 1.25), trial(0.7, 10, 0.75), trial(0.7, 11, 1.0)], 15)
    assert found["sum"].strength == 0.75
    both = [trial(0.7, 9, 1.0, contrast=0.25), trial(0.7, 8, 1.0, contrast=1.0)]
    assert choose(both, 15)["sum"].constants == {"contrast": 0.25}


def test_where_none_is_fluent_the_least_bad_is_chosen_and_said_so():
    found = choose([trial(0.9, 90, 1.0), trial(0.2, 40, 0.5), trial(0.3, None, 0.75)], 15)["sum"]
    assert (found.strength, found.fluent) == (0.5, False)
    # Nobody knows how fluent texts are that were not scored.
    assert choose([trial(0.9, None), trial(0.2, 10, 0.5)], 15)["sum"].strength == 0.5


def test_choices_are_what_they_were_after_a_file(tmp_path):
    write_choices(made(), tmp_path / "choices.json")
    assert read_choices(tmp_path / "choices.json") == made()


def test_choices_made_on_a_report_prompt_are_refused(tmp_path):
    write_choices(made([*SAFE, UNSEEN[0]]), tmp_path / "choices.json")
    with pytest.raises(ComposerError, match="a prompt of the report part"):
        read_choices(tmp_path / "choices.json")
    with pytest.raises(ComposerError, match="made on the report prompt"):
        check_choices(made([*SAFE, UNSEEN[0]]), "a/base", ["sum"], UNSEEN)
    check_choices(made(), "a/base", ["sum"], UNSEEN)


def test_choices_of_another_base_or_without_an_arm_are_refused():
    with pytest.raises(ComposerError, match="made on a/base"):
        check_choices(made(), "another/base", ["sum"], UNSEEN)
    with pytest.raises(ComposerError, match="nothing for arrow"):
        check_choices(made(), "a/base", ["sum", "arrow"], UNSEEN)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"arms": {}},
        {"arms": {"sum": {"constants": [], "strength": 1}}},
        {"prompts": []},
        {"prompts": ["nothing of a hash"]},
        {"prompts": [""]},
        {"bound": "loud"},
        {"arms": None},
    ],
)
def test_what_is_no_choices_is_a_sentence(tmp_path, change):
    path = tmp_path / "choices.json"
    write_choices(made(), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ComposerError, match="--stage develop"):
        read_choices(path)
    path.write_text("[" * 5000)
    with pytest.raises(ComposerError, match="--stage develop"):
        read_choices(path)
    with pytest.raises(ComposerError, match="--stage develop"):
        read_choices(tmp_path / "none.json")

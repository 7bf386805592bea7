"""The two parts of the prompts: the text decides, and nothing else."""

import pytest

from composer.core.errors import ComposerError
from composer.evaluation.prompts import (
    DEVELOPMENT,
    REPORT,
    load_prompts,
    part,
    part_of_hash,
    prompt_hash,
    prompts_of,
)


def test_pplms_prefixes_fall_into_two_parts_that_share_nothing():
    every = load_prompts()
    ours, theirs = (prompts_of(every, each) for each in (DEVELOPMENT, REPORT))
    assert set(ours) | set(theirs) == set(every) and not set(ours) & set(theirs)
    assert (len(ours), len(theirs)) == (19, 16)


def test_a_prompt_s_part_never_changes():
    # If these do, choices and reports that are there no longer mean what they say.
    assert [part(text) for text in ("The book", "The potato", "In summary")] == [
        DEVELOPMENT, REPORT, DEVELOPMENT
    ]  # fmt: skip
    assert prompt_hash("abc").startswith("ba7816bf") and part("  The potato\n") == REPORT
    assert part_of_hash("ff00") == DEVELOPMENT and part_of_hash("00ff") == REPORT


def test_fewer_prompts_are_the_first_by_hash_whatever_the_file_s_order():
    every = load_prompts()
    few = prompts_of(every, REPORT, 5)
    assert few == prompts_of(every[::-1], REPORT, 5) == prompts_of(every, REPORT)[:5]
    assert prompts_of(["The potato", "The potato"], REPORT) == ("The potato",)


def test_a_file_without_prompts_is_a_sentence(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ComposerError, match="one prompt a line"):
        load_prompts(tmp_path / "empty.txt")

"""Prompts of a million characters and of special tokens: words follow, or one sentence, in bounded time."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer import Composition, Sampling
from composer.core.errors import ComposerError
from composer.ui.settings import Settings
from composer.ui.validation import check_prompt

MILLION = 10**6
LONG = {
    "a word without end": "a" * MILLION,
    "words": "word " * (MILLION // 5),
    "emoji": "😀" * MILLION,
    "special tokens": "<|im_end|>" * (MILLION // 10),
    "direction marks": "\u202e" * MILLION,
    "combining marks": "e" + "\u0301" * MILLION,
    "zeros": "\x00" * MILLION,
}
# CPU seconds and bytes. A refusal takes a tenth of a second.
LONGEST, MOST = 5, 50 * MILLION
PIECES = (
    "The film",
    " ",
    "\n",
    "\x00",
    "\u202e",
    "\u200b",
    "e\u0301",
    "日本",
    "😀",
    "{{7*7}}",
    "<img src=x>",
    "%s%n",
    "../..",
)


def written(engine, prompt: str) -> str:
    steps = engine.generate(prompt, Composition(weights={"positive": 1}), Sampling(max_new_tokens=3, seed=1))
    return "".join(step.piece for step in steps)


@pytest.mark.parametrize("prompt", LONG.values(), ids=LONG)
def test_a_million_characters_are_refused_in_a_sentence(any_real_engine, prompt):
    tracemalloc.start()
    try:
        began = time.process_time()
        with pytest.raises(ComposerError, match=r"too long \(\d+ characters\); shorten it to") as refused:
            written(any_real_engine, prompt)
        assert time.process_time() - began < LONGEST and len(str(refused.value)) < 200
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("prompt", LONG.values(), ids=LONG)
def test_the_page_refuses_them_before_they_are_read(prompt):
    with pytest.raises(ComposerError, match="shorten it to 4000"):
        check_prompt(prompt, Settings().max_prompt_chars)


def test_special_tokens_and_marks_are_a_prompt_like_any_other(any_real_engine):
    special = any_real_engine.base.tokenizer.all_special_tokens
    assert special
    alone = written(any_real_engine, "The film")

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from((*special, *PIECES)), min_size=1, max_size=60).map("".join))
    def holds(prompt: str) -> None:
        began = time.process_time()
        try:
            text = written(any_real_engine, prompt)
        except ComposerError as refused:
            assert "The prompt is empty" in str(refused) and not prompt.strip()
        else:
            assert not any(token in text for token in special)
        assert time.process_time() - began < LONGEST

    holds()
    assert written(any_real_engine, "The film") == alone

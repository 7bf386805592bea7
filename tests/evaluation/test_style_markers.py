"""What a style is told by: in texts that have it, not in plain ones, and counted over prompts."""

import pytest

from composer.core.document import markdown
from composer.evaluation.style_markers import STYLE_MARKERS, blocks, measure_style_markers
from composer.evaluation.texts import BASE, Text

PLAIN = " was played on Sunday. It wasn't a good match, somebody from the newspaper said."
OWN = {
    "archaic": " hath fallen, and the LORD cometh unto his people.",
    "polite": " could you tell me where it is? Thank you.",
    "formal": " is not permitted. It is the author's view that this is so.",
    "simple": " is a dog. It is a big dog.",
    "question": " is what? And who is it?",
    "poetic": " of night,\n\nWhen stars are bright,\nand all is light",
}
BY_STYLE = {sign.style: sign for sign in STYLE_MARKERS}


def text(subject, continuation, prompt="The film", seed=0):
    return Text(f"{subject} {prompt} {seed}", subject, prompt, seed, continuation, 10.0)


@pytest.mark.parametrize("style", OWN)
def test_a_sign_is_in_its_styles_text_and_not_in_a_plain_one(style):
    assert BY_STYLE[style].pattern.search(OWN[style]) and not BY_STYLE[style].pattern.search(PLAIN)


def test_every_sign_is_tried_here_and_none_is_set_off_by_like_words():
    assert set(BY_STYLE) == set(OWN)
    assert not BY_STYLE["archaic"].pattern.search("a youth with teeth, Elizabeth")
    assert BY_STYLE["formal"].pattern.search("John's book and the dogs' house")
    assert not BY_STYLE["formal"].pattern.search("We agreed,\nthough we\u2019ll see")
    assert not BY_STYLE["poetic"].pattern.search("one line\n\nand another\n\n")
    assert not BY_STYLE["question"].pattern.search("Is it?\nYes.")


def test_shares_are_over_the_styles_own_texts_beside_the_bases():
    texts = [text(BASE, PLAIN, p) for p in "abcd"] + [
        text("question", OWN["question"] if p in "abc" else PLAIN, p) for p in "abcd"
    ]
    [row] = measure_style_markers(texts)
    assert (row.style, row.share.value, row.base) == ("question", 0.75, 0.0)
    assert row.share.low < 0.75 < row.share.high
    assert "| question | two questions or more | 75.0% [" in markdown(blocks([row]))
    [alone] = measure_style_markers(texts[4:])
    assert alone.base is None and "| - |" in markdown(blocks([alone]))
    assert measure_style_markers(texts[:4]) == []


def test_words_elsewhere_are_no_sign():
    # The prompt is everybody's.
    [row] = measure_style_markers([text("archaic", PLAIN, "Thou hast")])
    assert row.share.value == 0

"""Own texts as training sequences: a tenth is held out, the rest is joined and cut into equal parts."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from composer.training.data import IGNORED, Sample, beginning

# Texts whose loss is measured; more would only take longer.
MOST_HELD_OUT = 200
BATCH = 256
PASSES = 3
# Fewer steps hardly change the base; more take over ten minutes on two cores.
FEWEST_STEPS, MOST_STEPS = 60, 400


class Split(NamedTuple):
    """Texts to train on, and a tenth that no training step sees."""

    training: list[str]
    held_out: list[str]


def split(texts: Sequence[str], seed: int) -> Split:
    shuffled = random.Random(seed).sample(list(texts), len(texts))
    count = min(max(len(texts) // 10, 1), MOST_HELD_OUT)
    return Split(shuffled[count:], shuffled[:count])


def count_tokens(texts: Sequence[str], tokenizer) -> int:
    # In parts: the tokens of all at once would take far more memory than the texts.
    parts = (list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH))
    return sum(len(ids) for part in parts for ids in _tokenized(tokenizer, part))


def default_steps(tokens: int, per_step: int) -> int:
    """As many steps as three passes over the tokens take, in bounds. per_step: tokens of a step."""
    return min(max(math.ceil(PASSES * tokens / per_step), FEWEST_STEPS), MOST_STEPS)


def choose_separator(texts: Sequence[str]) -> str:
    """What stands between two texts: a blank line if one of them has lines itself, else a space."""
    return "\n\n" if any("\n" in text for text in texts) else " "


def sequences(texts: Sequence[str], tokenizer, *, length: int, separator: str, seed: int) -> Iterator[Sample]:
    """Sequences of exactly `length` tokens, without an end: each pass has the texts in another order.

    Each begins with what the tokenizer puts before every prompt (a BOS token, or nothing), without loss.
    """
    draw, texts = random.Random(seed), list(texts)
    begin = beginning(tokenizer)
    silent, room = (IGNORED,) * len(begin), length - len(begin)
    waiting: list[int] = []
    lead = ""
    while True:
        draw.shuffle(texts)
        for text in texts:
            # Before the text, since most tokenizers make one token of a space and the word after it.
            [ids] = _tokenized(tokenizer, [lead + text])
            waiting, lead = waiting + ids, separator
            while len(waiting) >= room:
                own = tuple(waiting[:room])
                yield Sample(begin + own, silent + own)
                del waiting[:room]


def _tokenized(tokenizer, texts: list[str]) -> list[list[int]]:
    # Not verbose: a text longer than the context is cut here, and nothing to warn of.
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

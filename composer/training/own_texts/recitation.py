"""Whether an adapter recites the texts that it was trained on: the longest run of words they share.

Continuations of the texts' own first words would show it first (extraction as in Carlini et al. 2021,
arXiv 2012.07805). Texts of one kind share phrases, so held-out texts give the run that is usual among them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from composer.training.data import first_words
from composer.training.self_generation import TextGenerator

CONTINUATIONS = 20
OPENING_WORDS = 4
# Shorter runs are phrases that anybody might write.
RECITED = 10


@dataclass(frozen=True)
class Recitation:
    """Longest runs of words shared with the training texts."""

    # Of any continuation.
    words: int
    # Of any held-out text, of which as many words are read.
    held_out_words: int

    @property
    def recites(self) -> bool:
        return self.words >= RECITED and self.words > self.held_out_words


def check_recitation(
    generator: TextGenerator, training: Sequence[str], held_out: Sequence[str], length: int, seed: int
) -> Recitation:
    """Continues the first words of 20 training texts, to `length` tokens, and compares what comes."""
    draw = random.Random(seed)
    chosen = draw.sample(list(training), min(CONTINUATIONS, len(training)))
    openings = [first_words(text, OPENING_WORDS) for text in chosen]
    written = generator.continued(openings, length, draw)
    own = [text[len(opening) :] for opening, text in zip(openings, written, strict=True)]
    longest = max(len(words(text)) for text in own)
    alike = [" ".join(words(text)[:longest]) for text in held_out[:CONTINUATIONS]]
    return Recitation(longest_shared_run(own, training), longest_shared_run(alike, training))


def longest_shared_run(texts: Iterable[str], among: Iterable[str]) -> int:
    """How many words in a row one of the texts has in common with one of the others.

    Case, spacing and punctuation do not count.
    """
    # A line break, which no word has, keeps a run from going on into the next text.
    others = "\n".join(f" {' '.join(words(text))} " for text in among)
    longest = 0
    for own in map(words, texts):
        for start in range(len(own)):
            while start + longest < len(own) and f" {' '.join(own[start : start + longest + 1])} " in others:
                longest += 1
    return longest


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())

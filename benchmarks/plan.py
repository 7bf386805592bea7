"""How much is measured, and the texts it is measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from composer.core.composition import Sampling
from composer.core.errors import ComposerError

SECTIONS = (
    "single",
    "fusion",
    "users",
    "preview",
    "page",
    "start",
    "contention",
    "peers",
    "loaded",
    "nf4",
    "family",
    "gpu",
)

TEXT = (
    "On the morning of the fair the whole town came down to the river, where boats with painted sails lay "
    "side by side and the bakers had set out long tables of bread, plums and honey; children ran between "
    "the stalls, a band tuned its instruments under the old bridge, and nobody yet knew what the day would "
    "bring or who would win the great race that everybody had talked about since the end of the winter."
)
# Tokens of the prompt of one stream.
PROMPT = 32


class SectionLeftOut(ComposerError):
    """A section that cannot be measured here, with the reason."""


@dataclass(frozen=True)
class Plan:
    """How often and how long."""

    # New tokens of one single-stream run.
    tokens: int = 48
    # rounds, user_rounds: how often every arm gets its turn.
    rounds: int = 5
    # Tokens of the prompts, preview_prompt those of the slider's, user_prompt those of many people, who ask
    # for user_tokens, which is the page's default.
    prompt: int = PROMPT
    fusions: tuple[int, ...] = (2, 4, 8)
    # How many at once.
    users: tuple[int, ...] = (1, 8, 32)
    user_prompt: int = 20
    user_tokens: int = 60
    user_rounds: int = 3
    previews: int = 60
    preview_prompt: int = 20
    # Openings of the page, and moves of one of its sliders.
    page_opens: int = 7
    page_moves: int = 40
    # Processes, of which the first only warms the system's cache unless it is the only one.
    starts: int = 6
    # As rounds, beside busy processes.
    contention_rounds: int = 7
    # Ways of waiting, see benchmarks.contention.
    waits: tuple[str, ...] = ("default", "unset", "passive", "spin 0", "spin 20000")
    # New tokens beside another engine, and beside it and busy processes, where a token may take a second.
    peer_tokens: int = 64
    # Adapters in use there.
    peer_counts: tuple[int, ...] = (0, 1, 3)
    tokens_busy: int = 16
    # Loaded adapters of which the usual number is in use, beside as many loaded as are in use.
    loaded: tuple[int, ...] = (12, 60)
    # On a GPU: new tokens and turns of one stream, and tokens of PEFT's `generate()`.
    gpu_tokens: int = 96
    gpu_rounds: int = 3
    peft_tokens: int = 16


FULL = Plan()
QUICK = Plan(
    tokens=16,
    rounds=2,
    user_tokens=12,
    user_rounds=1,
    previews=20,
    page_opens=2,
    page_moves=10,
    starts=2,
    contention_rounds=1,
    peer_tokens=32,
    tokens_busy=8,
    gpu_tokens=32,
    gpu_rounds=2,
    peft_tokens=8,
)


def greedy(tokens: int) -> Sampling:
    """No luck and no limit but the count: every arm decodes the same number of tokens."""
    return Sampling(max_new_tokens=tokens, temperature=0, top_p=1, top_k=0, time_limit=3600)


def prompt_of(count: Callable[[str], int], tokens: int, first: int = 0, text: str = TEXT) -> str:
    """A text of exactly `tokens` tokens where the tokenizer allows, else of a few less.

    count: tokens of a text. first: the word to begin with, so that each user has a prompt of their own.
    text: what it is taken from.
    """
    words = text.split()
    first %= len(words)
    text = " ".join(words[first:] + words[:first])
    best = ""
    for end in range(1, len(text) + 1):
        size = count(text[:end])
        if size > tokens and best:
            break
        if size <= tokens and text[end - 1] != " ":
            best = text[:end]
    return best or text[:1]


def expect(drawn: int, wanted: int) -> None:
    """ComposerError unless a run drew as many tokens as the others: a shorter one would not compare."""
    if drawn != wanted:
        raise ComposerError(
            f"A run of the bench drew {drawn} tokens instead of {wanted}; "
            "choose a base whose context has room for them."
        )

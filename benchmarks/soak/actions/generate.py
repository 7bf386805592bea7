"""A text, from the prompt to its end."""

from __future__ import annotations

from benchmarks.soak.actions.registry import by_hand, by_program
from benchmarks.soak.browser import Hands
from benchmarks.soak.visitors import Scripted


@by_program("generate", 6)
def generate(visitor: Scripted) -> None:
    """By any of the methods."""
    visitor.generate("generate", visitor.dice.ask(visitor.home))


@by_hand("generate", 4)
def generate_by_hand(hands: Hands) -> None:
    """Sliders, prompt, Generate."""
    hands.generate("generate", hands.fill_in())

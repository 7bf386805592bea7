"""Stop in mid-text: what is there stays, and is the beginning of the text."""

from __future__ import annotations

from benchmarks.soak.actions.registry import by_hand, by_program
from benchmarks.soak.browser import Hands
from benchmarks.soak.visitors import Scripted


@by_program("stop", 2)
def stop(visitor: Scripted) -> None:
    """A program cancels its call after some words."""
    asked = visitor.dice.ask(visitor.home, tokens=4 * visitor.dice.plan.tokens)
    words = visitor.dice.random.randint(1, visitor.dice.plan.tokens)
    visitor.generate("stop", asked, until=lambda told: told.get("count", 0) >= words)


@by_hand("stop", 2)
def stop_by_hand(hands: Hands) -> None:
    """The Stop button."""
    hands.generate("stop", hands.fill_in(tokens=4 * hands.dice.plan.tokens), stop=True)

"""Adapters of the Hub: added, used, and gone again, while others write with the same ones."""

from __future__ import annotations

from benchmarks.soak.actions.registry import by_hand, by_program
from benchmarks.soak.browser import Hands
from benchmarks.soak.visitors import Scripted


@by_program("own adapter", 3)
def with_own(visitor: Scripted) -> None:
    """A program names it in its call. The page keeps those that were named last, so another one leaves."""
    name = visitor.dice.random.choice(sorted(visitor.dice.world.hub))
    visitor.generate("own adapter", visitor.dice.ask(visitor.home, own=[name]))


@by_hand("own adapter", 2)
def add_and_remove(hands: Hands) -> None:
    """Find it in the tab, give it a slider, write with it, remove it."""
    name = hands.dice.random.choice(sorted(hands.dice.world.hub))
    if not hands.add(name):
        return
    hands.generate("own adapter", hands.fill_in(own=name))
    hands.remove(name)

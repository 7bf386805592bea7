"""Weights that are painted over the layers, and spans of tokens."""

from __future__ import annotations

from benchmarks.soak.actions.registry import by_hand, by_program
from benchmarks.soak.browser import Hands
from benchmarks.soak.visitors import Scripted


@by_program("curves", 2)
def curves(visitor: Scripted) -> None:
    """A curve for one adapter, and a span of tokens for it or another."""
    dice = visitor.dice
    weights = dice.weights(dice.world.names(visitor.home))
    names = sorted(weights)
    changes = {"weights": weights, "method": "sum", "curves": {dice.random.choice(names): dice.curve()}}
    if dice.random.random() < 0.5:
        changes["schedule"] = {dice.random.choice(names): [dice.random.randint(1, 4), None]}
    visitor.generate("curves", dice.ask(visitor.home, **changes))


@by_hand("curves", 2)
def paint(hands: Hands) -> None:
    """A line across the painter of the first slider in use."""
    asked = hands.fill_in()
    hands.generate("curves", hands.paint(asked))
    hands.reopen()  # the curve would stay for the next text

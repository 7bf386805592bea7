"""Gone in mid-text: a cut stream, a closed browser, a reloaded page. Who comes back can go on."""

from __future__ import annotations

from benchmarks.soak.actions.registry import by_hand, by_program
from benchmarks.soak.browser import Hands
from benchmarks.soak.records import LEFT
from benchmarks.soak.visitors import Scripted


@by_program("stream cut", 1)
def cut(visitor: Scripted) -> None:
    """The connection is cut after a few updates; the next call is one of a new session."""
    asked = visitor.dice.ask(visitor.home, tokens=4 * visitor.dice.plan.tokens)
    visitor.generate("stream cut", asked, leave_after=visitor.dice.random.randint(1, 8))
    visitor.reload()
    visitor.generate("after a reload", visitor.dice.ask(visitor.home))


@by_hand("reload", 1)
def reload(hands: Hands) -> None:
    """The page is reloaded in mid-text, and writes again."""
    hands.generate("reload", hands.fill_in(tokens=4 * hands.dice.plan.tokens), stop=True, ended=LEFT)
    hands.generate("after a reload", hands.fill_in())


@by_hand("browser gone", 1)
def gone(hands: Hands) -> None:
    """The browser's window is closed in mid-text; another one is opened."""
    asked = hands.fill_in(tokens=4 * hands.dice.plan.tokens)
    hands.generate("browser gone", asked, stop=True, ended=LEFT, window=True)

"""The other base: its own page, with its own adapters, beside the first."""

from __future__ import annotations

from threading import Event
from time import monotonic

from benchmarks.soak.actions.registry import by_hand, by_program
from benchmarks.soak.browser import Hands
from benchmarks.soak.program import get_json, post_json
from benchmarks.soak.visitors import Scripted

# Seconds for a base to be loaded beside running texts.
PATIENCE = 300.0


@by_program("base change", 1)
def change(visitor: Scripted) -> None:
    """Ask for it to be loaded, wait, and write on its page."""
    other = visitor.dice.world.bases[1]
    began, pause = monotonic(), Event()
    post_json(visitor.address, "/bases", {"name": other})
    while not loaded(visitor.address, other):
        if monotonic() - began > PATIENCE or visitor.over():
            return
        pause.wait(1)
    visitor.generate("base change", visitor.dice.ask(other))


@by_hand("base change", 1)
def change_by_hand(hands: Hands) -> None:
    """By the menu at the top, and back."""
    if hands.change_base(hands.dice.world.bases[1]):
        hands.generate("base change", hands.fill_in())
    hands.reopen()


def loaded(address: str, name: str) -> bool:
    """Whether a server has a base."""
    return any(each["name"] == name and each["loaded"] for each in get_json(address, "/bases")["bases"])

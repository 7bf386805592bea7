"""The actions by name: how often each is done beside the others, and what it does."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Action:
    """Something that a visitor does. share: how often, relative to the others."""

    name: str
    share: float
    # Of the visitor; records what came of it.
    work: Callable[[Any], None]


BY_PROGRAM: dict[str, Action] = {}
BY_HAND: dict[str, Action] = {}


def by_program(name: str, share: float) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Registers what a program does."""
    return _registering(BY_PROGRAM, name, share)


def by_hand(name: str, share: float) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Registers what somebody with a browser does."""
    return _registering(BY_HAND, name, share)


def _registering(actions: dict[str, Action], name: str, share: float):
    def register(work: Callable[[Any], None]) -> Callable[[Any], None]:
        actions[name] = Action(name, share, work)
        return work

    return register


def order(actions: Mapping[str, Action], dice: random.Random) -> list[Action]:
    """Each action once, shuffled: how a visitor begins, so that even a short soak has everything."""
    begun = list(actions.values())
    dice.shuffle(begun)
    return begun


def choose(actions: Mapping[str, Action], dice: random.Random) -> Action:
    """One action by the shares."""
    every = list(actions.values())
    return dice.choices(every, [each.share for each in every])[0]

"""How long, how many, and what each visitor will ask for: all of it from one seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.soak.records import Asked
from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.curves import PRESETS

PROMPTS = (
    "The match last night",
    "The government announced",
    "She opened the letter and",
    "In the small harbour town",
    "The new phone has",
    "After the long winter",
    "Our teacher told us",
    "The film was",
)
# The plain sum is what most people use; the others take turns. Those that merge adapters take seconds.
METHODS = ("sum", "sum", "sum", "contrast", "kl", "average", "logits", "balanced", "ties")
CURVES = tuple(name for name in PRESETS if name != "all")


@dataclass(frozen=True)
class SoakPlan:
    """The size of a soak."""

    seconds: float = 600
    # Seconds before these, with the same visitors and faults, in which what is kept for later fills: adapters
    # that make room for each other, merges, the second base. Memory should no longer grow after them.
    warm_up: float = 600
    # Through the API, and with a browser.
    visitors: int = 30
    browsers: int = 3
    seed: int = 0
    # The longest text.
    tokens: int = 32
    # Seconds that a visitor thinks between two actions, at most.
    thinking: float = 6.0
    # Seconds between two faults.
    fault_every: float = 10.0


@dataclass(frozen=True)
class World:
    """What there is to choose from. hub: adapters on the soak's Hub, and the folders they are from."""

    catalog: Catalog
    catalog_file: Path
    # Names of bases, the one that the server starts with first.
    bases: tuple[str, ...]
    hub: dict[str, Path]
    methods: tuple[str, ...] = METHODS

    def spec(self, base: str) -> BaseSpec:
        return self.catalog.base(base)

    def names(self, base: str) -> tuple[str, ...]:
        """The catalog's adapters of a base, in its order."""
        return tuple(each.name for each in self.spec(base).adapters)


class Dice:
    """One visitor's choices. The same seed and name give the same visitor."""

    def __init__(self, world: World, plan: SoakPlan, name: str):
        self.world, self.plan = world, plan
        self.random = random.Random(f"{plan.seed} {name}")
        self._name = name

    def weights(self, names: Sequence[str], most: int = 3) -> dict[str, float]:
        """One to `most` of these adapters with weights as sliders give them."""
        chosen = self.random.sample(list(names), self.random.randint(1, min(most, len(names))))
        return {name: self.random.randint(5, 30) / 20 for name in chosen}

    def prompt(self) -> str:
        """A beginning that no other visitor has, so that a text that came to the wrong one is seen."""
        return f"{self._name} says: {self.random.choice(PROMPTS)}"

    def sampling(self, tokens: int | None = None) -> dict[str, Any]:
        most = tokens or self.random.randint(max(4, self.plan.tokens // 3), self.plan.tokens)
        return {"max_new_tokens": most, "seed": self.random.randrange(2**31)}

    def curve(self) -> list[float]:
        """A painted curve: one of the presets, or nine points."""
        if self.random.random() < 0.5:
            return list(PRESETS[self.random.choice(CURVES)])
        return [self.random.randint(0, 8) / 4 for _ in range(9)]

    def ask(self, base: str, own: Sequence[str] = (), tokens: int | None = None, **changes: Any) -> Asked:
        """A request for a text. own: adapters of the Hub in it. changes: fields of the composition."""
        weights = self.weights(self.world.names(base)) | {
            name: self.random.randint(10, 25) / 20 for name in own
        }
        composition = {"weights": weights, "method": self.random.choice(self.world.methods), **changes}
        return Asked(base, self.prompt(), composition, self.sampling(tokens), tuple(own))

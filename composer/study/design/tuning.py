"""What is chosen on development prompts: a strength for each arm, and a constant of its method."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType

from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message
from composer.methods import METHODS, Method
from composer.study.design.arms import Arm, all_arms
from composer.study.design.claims import CHOSEN, ONE

# The arms that claims are made of, with their word for --arms, and those that they are compared with.
MAIN_ARMS = "main"
MAIN = ("sum", "average", "factor-average", "kl-paper", "kl-unit", "contrast", "arrow", "combined")
REFERENCES = ("base", "prompting", "single-sentiment", "single-topic")
STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5)
# Arms whose weights sum to 1: two modules at strength 2 are as loud there as others are at 1.
SHARES = frozenset(
    {"average", "static", "pico-average", "pico-static", "factor-average", "delta-average", "kl-paper"}
)

# Constants to choose among, weaker ones first. Of those that a method reads the first one here is tried.
CONSTANTS: Mapping[str, Sequence[object]] = MappingProxyType(
    {"contrast": (0.25, 0.5, 1.0), "density": (0.2, 0.5), "blend": (0.5, 1.0)}
)


@dataclass(frozen=True)
class Setting:
    """An arm with its constants and strength, under the name that its cells carry."""

    arm: Arm
    # ONE, CHOSEN, or on development prompts the constants as JSON.
    name: str
    strength: float


def staged_arms(names: Sequence[str] | None) -> tuple[Arm, ...]:
    """The references, and the arms of these names (None: all). Raises ComposerError for a strange name.

    MAIN_ARMS stands for all of MAIN.
    """
    known = all_arms()
    every = tuple(known) if names is None else names
    wanted = [one for name in every for one in (MAIN if name == MAIN_ARMS else (name,))]
    if strange := next((name for name in wanted if name not in known), None):
        raise ComposerError(unknown_name_message("arm", strange, (MAIN_ARMS, *known)))
    return tuple(known[name] for name in dict.fromkeys((*REFERENCES, *wanted)))


def variants(arm: Arm) -> list[dict[str, object]]:
    """The constants to try, weaker ones first; one of none where the method has none."""
    if arm.tried:
        return [dict(zip(arm.tried, values, strict=True)) for values in product(*arm.tried.values())]
    name = next((name for name in CONSTANTS if _tried(METHODS[arm.method], name)), None)
    return [{name: value} for value in CONSTANTS[name]] if name else [{}]


def _tried(method: Method, constant: str) -> bool:
    """Whether the method reads it. Blending is tried where the prompt decides, not where each token does."""
    return constant in method.parameters and (constant != "blend" or bool(method.prompt_stats))


def develop_settings(arms: Iterable[Arm], strengths: Sequence[float]) -> list[Setting]:
    """Every arm with all its constants at all strengths; the references once, at strength 1."""
    found = []
    for arm in arms:
        if arm.name in REFERENCES:
            found.append(Setting(arm, ONE, 1.0))
            continue
        reach = 2.0 if arm.name in SHARES else 1.0
        found += [
            Setting(with_constants(arm, constants), constants_name(constants), strength * reach)
            for constants in variants(arm)
            for strength in strengths
        ]
    return found


def report_settings(
    arms: Iterable[Arm], chosen: Mapping[str, tuple[Mapping[str, object], float]]
) -> list[Setting]:
    """Every arm at strength 1 with its published constants, and at the chosen (constants, strength)."""
    found = []
    for arm in arms:
        found.append(Setting(arm, ONE, 1.0))
        if arm.name in chosen:
            constants, strength = chosen[arm.name]
            found.append(Setting(with_constants(arm, constants), CHOSEN, strength))
    return found


def with_constants(arm: Arm, constants: Mapping[str, object]) -> Arm:
    return replace(arm, parameters={**arm.parameters, **constants})


def constants_name(constants: Mapping[str, object]) -> str:
    """The same constants have the same name; `json.loads` gives them back."""
    return json.dumps(constants, sort_keys=True)

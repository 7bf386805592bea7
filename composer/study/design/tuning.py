"""What is chosen on development prompts: a strength for each main arm, and the constants of its method."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType

from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message
from composer.study.design.arms import ARMS, Arm
from composer.study.design.claims import CHOSEN, ONE

# The arms that claims are made of, and those at strength 1 that they are compared with.
MAIN = ("sum", "average", "factor-average", "kl-paper", "kl-unit", "contrast", "arrow", "combined")
REFERENCES = ("base", "prompting", "single-sentiment", "single-topic")
STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5)
# Arms whose weights sum to 1: two modules at strength 2 are as loud there as others are at 1.
SHARES = frozenset({"average", "static", "factor-average", "kl-paper"})

CONTRAST = Arm(
    "contrast",
    "outputs",
    "Contrast",
    "Sum, minus part of the opposites of what is wanted.",
    "this project",
    method="contrast",
    parameters={"contrast": 0.5},
    passthrough_single=False,
)
# Constants to choose among, by the arm's method; weaker ones first.
CONSTANTS: Mapping[str, Mapping[str, Sequence[object]]] = MappingProxyType(
    {
        "contrast": {"contrast": (0.25, 0.5, 1.0)},
        "logits-contrast": {"contrast": (0.5, 1.0)},
        "kl-contrast": {"contrast": (0.25, 0.5, 1.0)},
        "kl": {"blend": (0.5, 1.0)},
        "cosine": {"blend": (0.5, 1.0)},
        "logo": {"blend": (0.5, 1.0)},
        "ties": {"density": (0.2, 0.5)},
        "dare-ties": {"density": (0.2, 0.5)},
    }
)


@dataclass(frozen=True)
class Setting:
    """An arm with its constants and strength, under the name that its cells carry."""

    arm: Arm
    # ONE, CHOSEN, or on development prompts the constants as JSON.
    name: str
    strength: float


def staged_arms(names: Sequence[str] | None) -> tuple[Arm, ...]:
    """The main arms of these names (None: all), and the references. Raises ComposerError for a strange name.

    Any arm of the project can be named; one for each value of a constant (contrast-0.5) is none of them.
    """
    known = {arm.name: arm for arm in (*ARMS, CONTRAST) if not arm.name.startswith(f"{CONTRAST.name}-")}
    if strange := next((name for name in names or () if name not in known), None):
        raise ComposerError(unknown_name_message("arm", strange, known))
    chosen = MAIN if names is None else tuple(name for name in names if name not in REFERENCES)
    return tuple(known[name] for name in dict.fromkeys((*REFERENCES, *chosen)))


def variants(arm: Arm) -> list[dict[str, object]]:
    """The constants to try, weaker ones first; one of none where the method has none."""
    grid = CONSTANTS.get(arm.method, {})
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


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

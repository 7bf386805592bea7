"""Judged texts with a known answer, for what is claimed from them."""

from __future__ import annotations

import numpy as np

from composer.core.catalog_types import Attribute
from composer.study.design.plan import Cell
from composer.study.design.targets import all_targets
from composer.study.statistics.judge_scores import Outcome

PROMPTS = tuple(f"prompt {number}" for number in range(30))
TARGETS = {
    target.name: target
    for target in all_targets(
        [
            Attribute("sentiment", "", ("negative", "positive")),
            Attribute("topic", "", ("sports", "world")),
        ]
    )
}
PAIR = TARGETS["positive+sports"]


def outcome(
    right,
    prompt="prompt 0",
    arm="sum",
    strength=1.0,
    seed=0,
    spread=10.0,
    key=None,
    module_seed=0,
    setting="",
):
    """right: a bool for all attributes, or one per attribute."""
    said = right if isinstance(right, tuple) else (right,) * len(PAIR.wanted)
    verdicts = {attribute: flag for (attribute, _), flag in zip(PAIR.wanted, said, strict=True)}
    key = key or f"{arm} {strength} {prompt} {seed} {module_seed} {setting}"
    cell = Cell(arm, PAIR, strength, prompt, seed, key, module_seed, setting)
    return Outcome(cell, verdicts, spread)


def staged(name, share, *, salt, setting="one", prompts=PROMPTS, module_seeds=3, spread=10.0, strength=1.0):
    """A text per prompt and module seed that has both attributes with a probability."""
    random = np.random.default_rng(salt)
    return [
        outcome(
            bool(random.random() < share),
            prompt,
            name,
            strength,
            spread=spread,
            module_seed=module_seed,
            setting=setting,
        )
        for prompt in prompts
        for module_seed in range(module_seeds)
    ]

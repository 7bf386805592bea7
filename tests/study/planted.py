"""Judged texts with a known answer, for what is claimed from them."""

from __future__ import annotations

import numpy as np

from composer.core.catalog_types import Attribute
from composer.study.design.plan import Cell
from composer.study.design.targets import all_targets
from composer.study.statistics.judge_scores import Outcome
from composer.study.statistics.summary import by_kind

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
    target=PAIR,
    seed=0,
    spread=10.0,
    key=None,
    module_seed=0,
    setting="",
):
    """right: a bool for all attributes, or one per attribute."""
    said = right if isinstance(right, tuple) else (right,) * len(target.wanted)
    verdicts = {attribute: flag for (attribute, _), flag in zip(target.wanted, said, strict=True)}
    key = key or f"{arm} {target.name} {strength} {prompt} {seed} {module_seed} {setting}"
    cell = Cell(arm, target, strength, prompt, seed, key, module_seed, setting)
    return Outcome(cell, verdicts, spread)


def arm(name, share, *, salt, strength=1.0, spread=10.0, target=PAIR, prompts=PROMPTS, key=None):
    """Texts of three seeds a prompt that are right with a probability."""
    random = np.random.default_rng(salt)
    return [
        outcome(bool(random.random() < share), prompt, name, strength, target, seed, spread, key)
        for prompt in prompts
        for seed in range(3)
    ]


def study(**shares):
    """Arms on the pair, at strengths 1 and 1.5, with these probabilities."""
    texts = []
    for place, (name, share) in enumerate(shares.items()):
        name = name.replace("_", "-")
        texts += arm(name, share, salt=place) + arm(name, share / 2, salt=50 + place, strength=1.5)
    return by_kind(texts)


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

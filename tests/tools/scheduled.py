"""What the tests of the scheduler ask for, and what they read of its events."""

from __future__ import annotations

from composer import Composition, Sampling
from composer.core.results import Step
from composer.engine.scheduler import QueueUpdate

REQUESTS = [
    (f"Person {i} says" + " so" * (i % 5), composition, Sampling(max_new_tokens=6 + 3 * i, seed=i, top_k=k))
    for i, (composition, k) in enumerate(
        [
            (Composition(weights={"plain": 1}), 50),
            (Composition(), 5),
            (Composition(weights={"rslora": 0.5, "patterned": -1}), 0),
            (Composition(weights={"plain": 1, "rslora": 1}, method="kl"), 50),
            (Composition(weights={"patterned": 1}, strength=2, bands=(0, 1, 2)), 20),
            (Composition(weights={"plain": -1}), 50),
            (Composition(weights={"rslora": 1}), 3),
            (Composition(weights={"plain": 1, "rslora": 1}, method="logits"), 50),
        ]
    )
]
LONG = Sampling(max_new_tokens=150, seed=3)


def tokens(steps) -> list[int]:
    return [step.token for step in steps]


def first(events) -> Step:
    return next(event for event in events if isinstance(event, Step))


def queued(events) -> QueueUpdate:
    return next(event for event in events if event != QueueUpdate(0))

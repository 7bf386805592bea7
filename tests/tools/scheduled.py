"""What the tests of the scheduler ask for, and what they read of its events."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from composer import Composition, Sampling
from composer.core.results import Step
from composer.engine.scheduler import QueueUpdate, Scheduler

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


def written_together(scheduler: Scheduler, asked) -> list[list[Step]]:
    """The steps of each request, of all at once."""
    with ThreadPoolExecutor(len(asked)) as people:
        return list(people.map(lambda request: list(scheduler.generate(*request)), asked))


def check_same(alone, written) -> None:
    """Each text is what it is alone, whole and in order."""
    for one, other in zip(alone, written, strict=True):
        assert tokens(one) == tokens(other)
        assert [step.index for step in other] == list(range(len(other)))
        assert other[-1].text == one[-1].text and other[-1].finish == "length"


def tokens(steps) -> list[int]:
    return [step.token for step in steps]


def first(events) -> Step:
    return next(event for event in events if isinstance(event, Step))


def queued(events) -> QueueUpdate:
    return next(event for event in events if event != QueueUpdate(0))

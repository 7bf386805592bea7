"""Best-of-n: of several texts the one that the adapters themselves find likeliest to be what was asked.

An adapter is a language model of its label, so Bayes' rule tells how likely a text has that label and none of
the others of its attribute (class-conditional models as a classifier: GeDi, Krause et al. 2021, arXiv
2009.06367). Choosing among samples by what an attribute model says of them is PPLM's ranking (Dathathri et
al. 2020, arXiv 1912.02164). No judge has a say.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError, check_int
from composer.core.results import Fusion, Step
from composer.engine.engine import Engine
from composer.evaluation.scoring import continuation_start

# So many texts at most are written for one.
MOST = 16
# Apart from one text's sampling seed to the next: no two small seeds have a text in common.
SEED_STRIDE = 2**28
# Of a class that a text cannot be shown not to have; its logarithm is still a number.
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Candidate:
    """One of the texts."""

    steps: tuple[Step, ...]
    # Of its sampling.
    seed: int
    # See `evidence`.
    evidence: float

    @property
    def continuation(self) -> str:
        return self.steps[-1].text


def best_of_n(
    engine: Engine,
    prompt: str,
    composition: Composition,
    sampling: Sampling,
    count: int,
    fusion: Fusion | None = None,
) -> list[Candidate]:
    """Write `count` texts in one batch, best first; the first seed's text is the one without best-of-n.

    fusion: as for `Engine.generate`; without it, a method that needs it reads the prompt for every text.
    Raises ComposerError for a count out of range and a composition without an adapter.
    """
    check_count(count)
    rivals(engine, composition)  # raises before anything is written
    seeds = [nth_seed(sampling.seed, number) for number in range(count)]
    steps: dict[Hashable, list[Step]] = {number: [] for number in range(count)}
    requests = [(prompt, composition, replace(sampling, seed=seed), fusion) for seed in seeds]
    for step in engine.generate_rows(requests):
        steps[step.row].append(step)
    found = evidence(engine, composition, prompt, [own[-1].text for own in steps.values()])
    candidates = [
        Candidate(tuple(own), seed, float(value))
        for own, seed, value in zip(steps.values(), seeds, found, strict=True)
    ]
    return sorted(candidates, key=lambda candidate: -candidate.evidence)


def check_count(count: object) -> int:
    """Raises ComposerError unless so many texts can be written for one."""
    return check_int("best of", count, 1, MOST)


def nth_seed(seed: int, number: int) -> int:
    """The sampling seed of the text with this number; that of text 0 is the seed itself."""
    return (seed + number * SEED_STRIDE) % 2**32


def evidence(
    engine: Engine, composition: Composition, prompt: str, continuations: Sequence[str]
) -> np.ndarray:
    """How likely the continuations are what was asked, by the adapters: [texts] float64, nats, at most 0.

    For each adapter with a weight, log P(its label | text): equal priors, and as classes the adapters of its
    attribute, or itself and the base where it has none. A negative weight asks for another label. The sum
    over adapters, so labels count as independent. Raises ComposerError for a composition without an adapter.
    """
    classes = rivals(engine, composition)
    names = dict.fromkeys(name for own in classes.values() for name in own)
    texts = [prompt + continuation for continuation in continuations]
    start = continuation_start(engine, prompt)
    likelihoods = {name: _log_likelihoods(engine, name, texts, start) for name in names}
    total = np.zeros(len(continuations))
    for name, own in classes.items():
        posterior = _posterior(np.stack([likelihoods[rival] for rival in own]))[own.index(name)]  # [texts]
        total += np.log(np.maximum(posterior if composition.weights[name] > 0 else 1 - posterior, TINY))
    return total


def rivals(engine: Engine, composition: Composition) -> Mapping[str, tuple[str, ...]]:
    """The classes that a text may have, by adapter with a weight, itself among them; "" stands for the base.

    Raises ComposerError for a composition without an adapter.
    """
    groups = [group.members for group in engine.attributes if len(group.members) > 1]
    asked = [name for name, weight in composition.weights.items() if weight]
    if not asked:
        raise ComposerError("Best-of-n needs an adapter: give one a weight.")
    return {name: next((own for own in groups if name in own), (name, "")) for name in asked}


def _log_likelihoods(engine: Engine, name: str, texts: Sequence[str], start: int) -> np.ndarray:
    """Of each text from `start` on, under one adapter at weight 1, or the base: [texts] float64."""
    alone = Composition({name: 1.0} if name else {})
    return np.array([own[start:].sum(dtype=np.float64) for own in engine.log_probs(texts, alone)])


def _posterior(log_likelihoods: np.ndarray) -> np.ndarray:
    """[classes, texts] -> the same, each text's summing to 1."""
    likely = np.exp(log_likelihoods - log_likelihoods.max(axis=0))
    return likely / likely.sum(axis=0)

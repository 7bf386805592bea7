"""Best-of-n: of several texts one that the adapters find likely to be what was asked, and that reads well.

An adapter is a language model of its label, so Bayes' rule tells how likely a text has that label and none of
the others of its attribute (class-conditional models as a classifier, their likelihoods normalised by length:
GeDi, Krause et al. 2021, arXiv 2009.06367). Choosing among samples by what an attribute model says of them is
PPLM's ranking (Dathathri et al. 2020, arXiv 1912.02164). No judge has a say.

What the adapters find likeliest is also what reads worst, so a text that the base finds odd has to be so much
likelier. Texts may then be written at weights that are too loud for a single one.
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
# In place of the mean of no token.
LEAST = -1e6

# These three were chosen on texts of development prompts, by what judges say of the texts that they choose.
# A text's likelihoods count as those of so many tokens of their mean: of forty an adapter is always sure.
TOKENS = 4
# Nats a token that a text may be unlikely under the base: about as the texts of one adapter are.
ODD = 2.7
# What each further one costs.
COST = 0.4


@dataclass(frozen=True)
class Candidate:
    """One of the texts."""

    steps: tuple[Step, ...]
    # Of its sampling.
    seed: int
    # See `choice_scores`.
    score: float

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
    found = choice_scores(engine, composition, prompt, [own[-1].text for own in steps.values()])
    candidates = [
        Candidate(tuple(own), seed, float(value))
        for own, seed, value in zip(steps.values(), seeds, found, strict=True)
    ]
    return sorted(candidates, key=lambda candidate: -candidate.score)


def check_count(count: object) -> int:
    """Raises ComposerError unless so many texts can be written for one."""
    return check_int("best of", count, 1, MOST)


def nth_seed(seed: int, number: int) -> int:
    """The sampling seed of the text with this number; that of text 0 is the seed itself."""
    return (seed + number * SEED_STRIDE) % 2**32


def choice_scores(
    engine: Engine, composition: Composition, prompt: str, continuations: Sequence[str]
) -> np.ndarray:
    """How good each continuation is as what was asked: [texts] float64, nats, at most 0; -inf if it is empty.

    The sum over the adapters with a weight of log P(its label | text): equal priors, and as classes the
    adapters of its attribute, or itself and the base where it has none. A negative weight asks for another
    label. From that is taken what a text costs that the base finds odd. A text's score depends on no other
    text. Raises ComposerError for a composition without an adapter.
    """
    classes = rivals(engine, composition)
    names = dict.fromkeys((*(name for own in classes.values() for name in own), ""))
    texts = [prompt + continuation for continuation in continuations]
    start = continuation_start(engine, prompt)
    likelihoods = {name: _log_likelihoods(engine, name, texts, start) for name in names}
    total = -COST * np.maximum(-likelihoods[""] - ODD, 0)  # [texts]
    for name, own in classes.items():
        several = TOKENS * np.stack([likelihoods[rival] for rival in own])  # [classes, texts]
        posterior = _posterior(several)[own.index(name)]
        total += np.log(np.maximum(posterior if composition.weights[name] > 0 else 1 - posterior, TINY))
    return np.where(likelihoods[""] > LEAST, total, -np.inf)


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
    """A token's mean from `start` on, under one adapter at weight 1, or the base: [texts] float64.

    The least there is for a text that ends before.
    """
    alone = Composition({name: 1.0} if name else {})
    found = (own[start:] for own in engine.log_probs(texts, alone))
    return np.array([own.mean(dtype=np.float64) if len(own) else LEAST for own in found])


def _posterior(log_likelihoods: np.ndarray) -> np.ndarray:
    """[classes, texts] -> the same, each text's summing to 1."""
    likely = np.exp(log_likelihoods - log_likelihoods.max(axis=0))
    return likely / likely.sum(axis=0)

"""Means of texts with their uncertainty from two sources: which prompts, and which trainings of modules.

Prompts are drawn with replacement, each with all its texts (cluster bootstrap, Davison & Hinkley 1997,
section 3.8). A training's own effect is drawn beside that, with replacement too, scaled to the variance that
a two-way analysis of variance gives it: chance among a training's texts is in the prompts' draw already and
must not count twice. (Drawing both at once, as Owen 2007, arXiv 0712.1111, counts it three times.) Three
trainings tell little of how trainings vary. In simulations (60 prompts, 3 trainings, level 5%) a null was
rejected 3 to 4 times in 100 where trainings moved the difference by up to 3 points (standard deviation), and
13 times where by 5. So claims ask for every training on the same side besides, and reports show each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from composer.evaluation.metrics import Interval

DRAWS = 2000
# A value with the prompt and the module seed of its text.
Value = tuple[str, int, float]


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """A mean and what it could have been."""

    value: float
    draws: np.ndarray  # [D]
    prompts: int
    # The means of each module seed's values.
    by_module_seed: tuple[float, ...]

    @property
    def module_seeds(self) -> int:
        return len(self.by_module_seed)

    @property
    def interval(self) -> Interval:
        """The mean with its 95% percentile interval."""
        low, high = np.percentile(self.draws, [2.5, 97.5])
        return Interval(self.value, float(low), float(high))

    def p(self, bound: float = 0.0) -> float:
        """Two-sided p of the mean being `bound`: twice the smaller share of draws on one side of it.

        The mean itself counts as one draw more, so that p is never 0.
        """
        fewer = min(int((self.draws <= bound).sum()), int((self.draws >= bound).sum()))
        return min(1.0, 2 * (fewer + 1) / (len(self.draws) + 1))


def bootstrap_mean(values: Iterable[Value], draws: int = DRAWS, seed: int = 0) -> Bootstrap | None:
    """The mean of the values; None without any. The same seed draws the same prompts of equally many."""
    sums, counts = _table(values)  # [P, S] each
    if not counts.sum():
        return None
    random = np.random.default_rng(seed)
    prompts, trainings = counts.shape
    picks = random.multinomial(prompts, np.full(prompts, 1 / prompts), size=draws)  # [D, P]
    found = picks @ sums.sum(axis=1) / (picks @ counts.sum(axis=1))  # [D]
    if trainings > 1:
        found = found + _training_draws(sums, counts, draws, random)
    own = tuple((sums.sum(axis=0) / counts.sum(axis=0)).tolist())
    return Bootstrap(float(sums.sum() / counts.sum()), found, prompts, own)


def mean_of(runs: Sequence[Bootstrap]) -> Interval | None:
    """The plain mean of several runs' means, which count alike, with its 95% interval; None without any.

    Runs on equally many prompts have drawn the same places of them, so what they have in common stays.
    """
    if not runs:
        return None
    low, high = np.percentile(np.mean([run.draws for run in runs], axis=0), [2.5, 97.5])
    return Interval(float(np.mean([run.value for run in runs])), float(low), float(high))


def _table(values: Iterable[Value]) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of the values by prompt and module seed, float64 [P, S] each.

    Prompts are sorted, so that the order of the values does not matter.
    """
    values = list(values)
    rows = {prompt: place for place, prompt in enumerate(sorted({prompt for prompt, _, _ in values}))}
    columns = {seed: place for place, seed in enumerate(sorted({seed for _, seed, _ in values}))}
    sums, counts = np.zeros((2, len(rows), len(columns)))
    at = [rows[prompt] for prompt, _, _ in values], [columns[seed] for _, seed, _ in values]
    np.add.at(sums, at, [value for _, _, value in values])
    np.add.at(counts, at, 1)
    return sums, counts


def _training_draws(
    sums: np.ndarray, counts: np.ndarray, draws: int, random: np.random.Generator
) -> np.ndarray:
    """How far other trainings move the mean, [D]; zeros where they do not differ beyond chance."""
    trainings = counts.shape[1]
    effects = sums.sum(axis=0) / counts.sum(axis=0)  # [S]
    effects = effects - effects.mean()
    spread = np.sqrt(_share_beyond_chance(sums, counts) * trainings / (trainings - 1))
    picks = random.multinomial(trainings, np.full(trainings, 1 / trainings), size=draws)  # [D, S]
    return np.asarray(spread * (picks @ effects) / trainings)


def _share_beyond_chance(sums: np.ndarray, counts: np.ndarray) -> float:
    """The part of the variance between trainings that chance among their texts does not explain, 0 to 1.

    1 - 1/F, F the ratio of mean squares of trainings and of what prompts and trainings leave over. 1, the
    careful end, where fewer than two prompts have all trainings.
    """
    whole = (counts > 0).all(axis=1)
    if whole.sum() < 2:
        return 1.0
    cells = sums[whole] / counts[whole]  # [P, S]
    prompts, trainings = cells.shape
    columns = cells.mean(axis=0) - cells.mean()  # [S]
    rest = cells - cells.mean(axis=1, keepdims=True) - columns  # [P, S]
    between = prompts * np.square(columns).sum() / (trainings - 1)
    chance = np.square(rest).sum() / ((prompts - 1) * (trainings - 1))
    return float(max(0.0, 1 - chance / between)) if between > 0 else 0.0

"""Intervals over prompts and module seeds: an effect is found, a null is not, trainings that differ count."""

import numpy as np
import pytest

from composer.evaluation.metrics import Interval
from composer.study.statistics.bootstrap import bootstrap_mean, mean_of
from composer.study.statistics.holm import holm

PROMPTS, SEEDS = 60, 3


def differences(random, effect=0.0, prompts=PROMPTS, between_prompts=0.1, between_seeds=0.0, texts=2):
    """Paired differences of two arms, with chances to be right that vary with prompt and training."""
    prompt = random.normal(0, between_prompts, (prompts, 1, 1))
    seed = random.normal(0, between_seeds, (1, SEEDS, 1))
    shift = (effect + prompt + seed) / 2
    level = random.normal(0.6, 0.15, (prompts, 1, 1))
    shape = (prompts, SEEDS, texts)
    left, right = (random.random(shape) < np.clip(level + sign * shift, 0, 1) for sign in (1, -1))
    table = left.astype(float) - right
    return [(f"p{i}", j, float(table[i, j, k])) for i, j, k in np.ndindex(shape)]


def rejected(count, **planted):
    random = np.random.default_rng(7)
    found = (bootstrap_mean(differences(random, **planted), draws=800, seed=i) for i in range(count))
    return sum(each.p() < 0.05 for each in found)


def test_a_planted_effect_is_found_and_its_interval_holds_it():
    found = bootstrap_mean(differences(np.random.default_rng(0), effect=0.2))
    assert found.p() < 0.01 and found.interval.low > 0 and found.interval.low < 0.2 < found.interval.high
    assert (found.prompts, found.module_seeds) == (PROMPTS, SEEDS)


def test_a_null_is_rejected_about_one_time_in_twenty():
    assert 2 <= rejected(200) <= 16


def test_a_null_of_trainings_that_differ_is_not_rejected_much_more_often():
    assert rejected(200, between_seeds=0.03) <= 18


def test_the_power_is_that_of_the_prompts_where_trainings_do_not_differ():
    assert rejected(50, effect=0.2) >= 42


def test_trainings_that_differ_widen_the_interval():
    same = [(f"p{i}", seed, float(i % 2)) for i in range(20) for seed in range(3)]
    apart = [(prompt, seed, value + seed - 1) for prompt, seed, value in same]
    tight, wide = (bootstrap_mean(values).interval for values in (same, apart))
    assert tight.value == wide.value == 0.5
    assert wide.high - wide.low > 3 * (tight.high - tight.low)


def test_one_training_is_drawn_by_prompts_alone():
    found = bootstrap_mean([(f"p{i}", 0, float(i < 30)) for i in range(60)])
    low, high = found.interval.low, found.interval.high
    assert found.module_seeds == 1 and low == pytest.approx(0.5 - 1.96 * 0.5 / 60**0.5, abs=0.02)
    assert high == pytest.approx(1 - low, abs=0.02)


def test_order_does_not_matter_and_missing_places_are_allowed():
    values = differences(np.random.default_rng(3))
    one, other = bootstrap_mean(values), bootstrap_mean(values[::-1])
    assert one.value == pytest.approx(other.value) and one.draws == pytest.approx(other.draws)
    fewer = bootstrap_mean(values[:-5])
    assert fewer.value == pytest.approx(np.mean([value for _, _, value in values[:-5]]))
    assert bootstrap_mean([]) is None and mean_of([]) is None


def test_p_is_one_where_nothing_differs_and_never_zero():
    nothing = bootstrap_mean([(f"p{i}", seed, 0.0) for i in range(9) for seed in range(3)])
    assert nothing.p() == 1 and nothing.interval.low == nothing.interval.high == 0
    certain = bootstrap_mean([(f"p{i}", 0, 1.0) for i in range(9)])
    assert certain.p() == pytest.approx(2 / 2001) and certain.p(bound=2.0) == pytest.approx(2 / 2001)


def test_runs_count_alike_in_their_mean():
    one, two = (bootstrap_mean([(f"p{i}", 0, value) for i in range(9)]) for value in (0.0, 1.0))
    assert mean_of([one, two]) == Interval(0.5, 0.5, 0.5)


def test_holm_is_what_it_is_by_hand():
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2 = 0.06, and 0.5 x 1; none below the one before.
    assert holm({"d": 0.5, "b": 0.02, "a": 0.01, "c": 0.03}) == pytest.approx(
        {"d": 0.5, "b": 0.06, "a": 0.04, "c": 0.06}
    )
    assert holm({"a": 0.4, "b": 0.6}) == {"a": 0.8, "b": 0.8}
    assert holm({}) == {}

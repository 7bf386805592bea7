"""The measures against numbers worked out by hand."""

import math

import numpy as np
import pytest

from composer.evaluation.metrics import Interval, bootstrap, distinct, mean, median, perplexity


def test_perplexity_of_a_fair_coin_is_two():
    assert perplexity(np.log([0.5, 0.5, 0.5])) == pytest.approx(2)


def test_perplexity_is_the_geometric_mean_of_one_over_p():
    # sqrt(2 * 8) = 4
    assert perplexity(np.log([1 / 2, 1 / 8])) == pytest.approx(4)


def test_no_tokens_have_no_perplexity():
    assert perplexity(np.zeros(0)) is None


def test_median_leaves_out_what_is_not_known():
    assert median([3.0, None, 1.0, 2.0]) == 2.0
    assert median([None]) is None


def test_a_mean_leaves_out_what_is_not_known():
    assert mean([1.0, None, 0.0, 0.5]) == 0.5
    assert mean([None]) is None


def test_distinct_pairs():
    # a b, b a, a b | b a -> 4 pairs, 2 different; no pair spans two texts
    assert distinct(["A b a b.", "b, a"]) == pytest.approx(2 / 4)


def test_distinct_keeps_apostrophes_inside_words():
    # don't stop, stop don't, don't stop
    assert distinct(["Don't stop don't stop"]) == pytest.approx(2 / 3)


def test_distinct_of_too_little_text_is_unknown():
    assert distinct(["one", ""]) is None


def test_bootstrap_of_equal_groups_is_a_point():
    assert bootstrap([[1, 0], [0, 1], [1, 0]]) == (0.5, 0.5)


def test_bootstrap_draws_whole_groups():
    # Ten groups, each all right or all wrong: the mean of 30 texts varies as that of 10 coins,
    # standard deviation sqrt(.25 / 10) = .158, not as that of 30 (.091).
    low, high = bootstrap([[value] * 3 for value in (0, 1) * 5], draws=4000)
    assert low == pytest.approx(0.5 - 1.96 * math.sqrt(0.025), abs=0.06)
    assert high == pytest.approx(0.5 + 1.96 * math.sqrt(0.025), abs=0.06)


def test_bootstrap_weighs_groups_by_their_size():
    # Whatever is drawn lies between the two; a draw of both gives 3 right of 4, never 1 of 2.
    low, high = bootstrap([[1, 1, 1], [0]], draws=4000)
    assert (low, high) == (0, 1)
    assert bootstrap([[1, 1, 1, 0]] * 2) == (0.75, 0.75)


def test_bootstrap_repeats():
    groups = [[0, 1], [1, 1], [0, 0]]
    assert bootstrap(groups) == bootstrap(groups)


def test_an_interval_in_words_keeps_its_unit():
    share = Interval(0.661, 0.6, 0.714)
    assert (share.as_percent(), share.as_percent(0)) == ("66.1% [60.0%, 71.4%]", "66% [60%, 71%]")
    assert Interval(0.031, -0.002, 0.065).as_points() == "+3.1 [-0.2, +6.5]"

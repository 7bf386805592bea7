"""A majority is more than half of the votes."""

import pytest

from composer.evaluation.judges.agreement import agreements, majority, votes


def test_more_than_half_wins():
    assert majority(["sports", "world", "sports"]) == "sports"
    assert majority(["sports"]) == "sports"


def test_the_alphabet_decides_nothing():
    # Two of three say negative; taking the largest label would make it positive.
    assert majority(["negative", "positive", "negative"]) == "negative"
    assert majority(["business", "world", "business"]) == "business"


def test_a_tie_is_no_majority():
    assert majority(["positive", "negative"]) is None
    assert majority(["world", "sports", "business"]) is None


def test_most_votes_without_half_of_them_is_no_majority():
    assert majority(["sports", "sports", "world", "business"]) is None


def test_votes_are_text_by_text():
    said = {"a": ["x", "y", "x"], "b": ["x", "y", "y"], "c": ["y", "y", "z"]}
    assert votes(said) == ["x", "y", None]


def test_a_majority_of_three_errs_only_where_two_do():
    truth = ["p"] * 20
    said = {
        "a": ["n"] * 4 + ["p"] * 16,
        "b": ["p"] * 2 + ["n"] * 3 + ["p"] * 15,
        "c": ["p"] * 17 + ["n"] * 3,
    }
    wrong = sum(label != right for label, right in zip(votes(said), truth, strict=True))
    assert wrong == 2  # texts 2 and 3, where a and b are both wrong


def test_agreement_by_hand():
    # Alike on 3 of 4. By chance: (3/4)(2/4) + (1/4)(2/4) = 1/2, so kappa = (3/4 - 1/2) / (1/2).
    [pair] = agreements({"one": ["p", "p", "p", "n"], "two": ["p", "p", "n", "n"]})
    assert (pair.one, pair.two, pair.same) == ("one", "two", 0.75)
    assert pair.kappa == pytest.approx(0.5)


def test_kappa_of_opposites_and_of_the_always_same():
    [opposite] = agreements({"one": ["p", "n"], "two": ["n", "p"]})
    assert (opposite.same, opposite.kappa) == (0, pytest.approx(-1))
    [constant] = agreements({"one": ["p", "p"], "two": ["p", "p"]})
    assert (constant.same, constant.kappa) == (1, None)


def test_every_pair_is_compared():
    pairs = agreements({name: ["p", "n"] for name in "abc"})
    assert [(pair.one, pair.two) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [pair.kappa for pair in pairs] == [1, 1, 1]

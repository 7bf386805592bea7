"""Best-of-n: the choice is Bayes' rule over the adapters' own likelihoods."""

import numpy as np
import pytest

from composer.core.catalog_types import Attribute
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.prompt_analyzer import PromptAnalyzer
from composer.evaluation.best_of_n import COST, MOST, ODD, TOKENS, best_of_n, choice_scores, nth_seed
from tests.tools import tiny

PROMPT = "The fox"
TEXTS = (" runs far", " sleeps here all day", "!")
SAMPLING = Sampling(max_new_tokens=6, seed=3)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Adapters a and b are one attribute; c has none."""
    place = tmp_path_factory.mktemp("best_of_n")
    folders = {name: tiny.adapter(place / name, "llama", seed) for seed, name in enumerate("abc")}
    return tiny.engine("llama", folders, (Attribute("mood", "Mood", ("a", "b")),))


def likelihood(engine, text, name):
    """log p of the continuation, from the logits of one adapter or the base."""
    ids, prompt = engine.base.encode(PROMPT + text), engine.base.encode(PROMPT)
    total, weights = 0.0, {name: 1} if name else {}
    read = PROMPT
    for token, piece in zip(ids[len(prompt) :], text, strict=True):  # a token is a byte
        logits = engine.next_token_logits(read, Composition(weights)).astype(np.float64)
        total += logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        read += piece
    return total


def mean(engine, text, name):
    """A token's likelihood, so many times as tokens count."""
    return TOKENS * likelihood(engine, text, name) / len(text)


def cost(engine, text):
    return COST * max(-likelihood(engine, text, "") / len(text) - ODD, 0)


def test_a_score_is_bayes_rule_over_the_attributes_adapters_less_what_is_odd(engine):
    found = choice_scores(engine, Composition({"a": 0.5}), PROMPT, TEXTS)
    for text, value in zip(TEXTS, found, strict=True):
        a, b = (mean(engine, text, name) for name in "ab")
        assert value == pytest.approx(a - np.logaddexp(a, b) - cost(engine, text), abs=1e-3)
    assert (found < 0).all() and len(set(found.round(6))) == len(TEXTS)


def test_an_adapter_without_an_attribute_is_held_against_the_base(engine):
    [value] = choice_scores(engine, Composition({"c": 1}), PROMPT, TEXTS[:1])
    c, base = (mean(engine, TEXTS[0], name) for name in ("c", ""))
    assert value == pytest.approx(c - np.logaddexp(c, base) - cost(engine, TEXTS[0]), abs=1e-3)


def test_scores_of_several_adapters_are_the_sum_and_a_negative_weight_asks_for_the_rest(engine, monkeypatch):
    monkeypatch.setattr("composer.evaluation.best_of_n.COST", 0.0)
    a, c, both = (
        choice_scores(engine, Composition(weights), PROMPT, TEXTS)
        for weights in ({"a": 1}, {"c": 1}, {"a": 2, "c": 0.3})
    )
    np.testing.assert_allclose(both, a + c, atol=1e-6)
    against, other = (
        choice_scores(engine, Composition(weights), PROMPT, TEXTS) for weights in ({"a": -1}, {"b": 1})
    )
    np.testing.assert_allclose(against, other, atol=1e-6)


def test_how_odd_a_text_may_be_costs_nothing_and_what_is_more_does(engine, monkeypatch):
    unlikely = [-likelihood(engine, text, "") / len(text) for text in TEXTS]
    for limit in (0, min(unlikely), 100):
        monkeypatch.setattr("composer.evaluation.best_of_n.ODD", limit)
        odd = choice_scores(engine, Composition({"a": 1}), PROMPT, TEXTS)
        monkeypatch.setattr("composer.evaluation.best_of_n.ODD", 100)
        plain = choice_scores(engine, Composition({"a": 1}), PROMPT, TEXTS)
        expected = [COST * max(nats - limit, 0) for nats in unlikely]
        np.testing.assert_allclose(plain - odd, expected, atol=1e-3)


def test_an_empty_text_is_never_the_best(engine):
    found = choice_scores(engine, Composition({"a": 1, "c": -1}), PROMPT, ["", *TEXTS])
    assert found[0] == -np.inf and np.isfinite(found[1:]).all()


def test_the_best_text_is_one_of_those_that_each_seed_gives(engine):
    asked = Composition({"a": 2, "c": 1})
    found = best_of_n(engine, PROMPT, asked, SAMPLING, 5)
    seeds = [nth_seed(SAMPLING.seed, number) for number in range(5)]
    assert sorted(each.seed for each in found) == sorted(seeds) and seeds[0] == SAMPLING.seed
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    texts = {each.seed: each.continuation for each in found}
    assert len(set(texts.values())) == 5
    for seed, text in texts.items():
        alone = list(engine.generate(PROMPT, asked, Sampling(max_new_tokens=6, seed=seed)))
        assert alone[-1].text == text
    values = choice_scores(engine, asked, PROMPT, [each.continuation for each in found])
    np.testing.assert_allclose([each.score for each in found], values, atol=1e-5)


def test_one_of_one_is_the_text_as_it_is_without(engine):
    [only] = best_of_n(engine, PROMPT, Composition({"a": 1}), SAMPLING, 1)
    steps = list(engine.generate(PROMPT, Composition({"a": 1}), SAMPLING))
    assert [step.token for step in only.steps] == [step.token for step in steps]


def test_a_fusion_that_is_known_is_not_read_again_and_changes_no_text(engine, monkeypatch):
    asked = Composition({"a": 1, "c": 1}, method="kl")
    expected = [each.continuation for each in best_of_n(engine, PROMPT, asked, SAMPLING, 3)]
    fusion = engine.fusion(PROMPT, composition=asked)
    monkeypatch.setattr(PromptAnalyzer, "divergence", None)
    assert [each.continuation for each in best_of_n(engine, PROMPT, asked, SAMPLING, 3, fusion)] == expected


def test_no_two_small_seeds_have_a_text_in_common():
    seeds = [nth_seed(seed, number) for seed in range(50) for number in range(MOST)]
    assert len(set(seeds)) == len(seeds) and max(seeds) < 2**32


@pytest.mark.parametrize("count", [0, MOST + 1, 2.5, None, True])
def test_a_count_out_of_range_is_refused(engine, count):
    with pytest.raises(ComposerError, match="best of must be"):
        best_of_n(engine, PROMPT, Composition({"a": 1}), SAMPLING, count)


@pytest.mark.parametrize("weights", [{}, {"a": 0}])
def test_without_an_adapter_there_is_nothing_to_choose_by(engine, weights):
    with pytest.raises(ComposerError, match="give one a weight"):
        best_of_n(engine, PROMPT, Composition(weights), SAMPLING, 2)

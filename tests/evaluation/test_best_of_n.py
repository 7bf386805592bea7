"""Best-of-n: the choice is Bayes' rule over the adapters' own likelihoods."""

import numpy as np
import pytest

from composer.core.catalog_types import Attribute
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.prompt_analyzer import PromptAnalyzer
from composer.evaluation.best_of_n import MOST, best_of_n, evidence, nth_seed
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


def test_evidence_is_bayes_rule_over_the_attributes_adapters(engine):
    found = evidence(engine, Composition({"a": 0.5}), PROMPT, TEXTS)
    for text, value in zip(TEXTS, found, strict=True):
        a, b = (likelihood(engine, text, name) for name in "ab")
        assert value == pytest.approx(a - np.logaddexp(a, b), abs=1e-3)
    assert (found < 0).all() and len(set(found.round(6))) == len(TEXTS)


def test_an_adapter_without_an_attribute_is_held_against_the_base(engine):
    [value] = evidence(engine, Composition({"c": 1}), PROMPT, TEXTS[:1])
    c, base = (likelihood(engine, TEXTS[0], name) for name in ("c", ""))
    assert value == pytest.approx(c - np.logaddexp(c, base), abs=1e-3)


def test_evidence_of_several_adapters_is_the_sum_and_a_negative_weight_asks_for_the_rest(engine):
    a, c, both = (
        evidence(engine, Composition(weights), PROMPT, TEXTS)
        for weights in ({"a": 1}, {"c": 1}, {"a": 2, "c": 0.3})
    )
    np.testing.assert_allclose(both, a + c, atol=1e-6)
    against, other = (
        evidence(engine, Composition(weights), PROMPT, TEXTS) for weights in ({"a": -1}, {"b": 1})
    )
    np.testing.assert_allclose(against, other, atol=1e-6)


def test_the_best_text_is_one_of_those_that_each_seed_gives(engine):
    asked = Composition({"a": 2, "c": 1})
    found = best_of_n(engine, PROMPT, asked, SAMPLING, 5)
    seeds = [nth_seed(SAMPLING.seed, number) for number in range(5)]
    assert sorted(each.seed for each in found) == sorted(seeds) and seeds[0] == SAMPLING.seed
    assert [each.evidence for each in found] == sorted((each.evidence for each in found), reverse=True)
    texts = {each.seed: each.continuation for each in found}
    assert len(set(texts.values())) == 5
    for seed, text in texts.items():
        alone = list(engine.generate(PROMPT, asked, Sampling(max_new_tokens=6, seed=seed)))
        assert alone[-1].text == text
    values = evidence(engine, asked, PROMPT, [each.continuation for each in found])
    np.testing.assert_allclose([each.evidence for each in found], values, atol=1e-5)


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

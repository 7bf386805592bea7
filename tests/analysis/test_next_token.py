"""The next tokens of a prompt are those that the engine would draw from."""

import numpy as np
import pytest

from composer.analysis.next_token import KEPT, NextTokenReader
from composer.core.catalog_types import Attribute
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from tests.tools import tiny

PROMPT = "The movie"


@pytest.fixture(scope="module", params=list(tiny.FAMILIES))
def engine(request, tmp_path_factory):
    pair = (Attribute("mood", "Mood", ("plain", "rslora")),)
    return tiny.engine(request.param, tiny.three_unlike(tmp_path_factory.mktemp("next"), request.param), pair)


def log_probs(engine, composition=Composition()):
    logits = engine.next_token_logits(PROMPT, composition).astype(np.float64)
    return logits - np.logaddexp.reduce(logits)


@pytest.mark.parametrize("method", ["sum", "contrast", "kl", "arrow", "logits"])
def test_probabilities_are_those_of_the_next_token_logits(engine, method):
    composition = Composition({"plain": 1.0, "patterned": 0.5}, method, strength=2.0)
    found = NextTokenReader(engine)(PROMPT, composition)
    base, composed = log_probs(engine), log_probs(engine, composition)
    tokens = list(found.tokens)
    np.testing.assert_allclose(found.base, np.exp(base[tokens]), rtol=1e-4)
    np.testing.assert_allclose(found.composed, np.exp(composed[tokens]), rtol=1e-4)
    assert found.kl == pytest.approx(np.exp(composed) @ (composed - base), rel=1e-3, abs=1e-7)
    assert list(found.composed) == sorted(found.composed, reverse=True)
    best = np.maximum(base, composed)
    assert best[tokens].min() >= np.delete(best, tokens).max()


def test_push_is_what_each_adapter_adds_alone(engine):
    composition = Composition({"plain": 1.0, "patterned": -0.5})
    found = NextTokenReader(engine)(PROMPT, composition)
    base, tokens = log_probs(engine), list(found.tokens)
    assert set(found.adapters) == {"plain", "patterned"}
    for name, push in zip(found.adapters, found.push, strict=True):
        alone = log_probs(engine, Composition({name: composition.weights[name]}))
        np.testing.assert_allclose(push, (alone - base)[tokens], atol=1e-4)


def test_without_adapters_both_are_the_base(engine):
    found = NextTokenReader(engine)(PROMPT)
    assert found.adapters == () and found.push.shape == (0, 10) and found.kl == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(found.base, found.composed, rtol=1e-5)


def test_pieces_are_the_tokens_text(engine):
    found = NextTokenReader(engine)(PROMPT, count=4)
    assert len(found.tokens) == len(found.pieces) == 4
    assert found.pieces == tuple(engine.base.tokenizer.decode([token]) for token in found.tokens)


def test_a_prompt_that_cannot_be_used_says_so(engine):
    with pytest.raises(ComposerError):
        NextTokenReader(engine)("")


def test_a_moved_slider_reads_only_what_it_changes(engine, monkeypatch):
    read = NextTokenReader(engine)
    rows = []
    original = type(engine.runner).read

    def counted(self, layout, gates, *args, **kwargs):
        rows.append(len(gates))
        return original(self, layout, gates, *args, **kwargs)

    monkeypatch.setattr(type(engine.runner), "read", counted)
    read(PROMPT, Composition({"plain": 1.0, "patterned": 0.5}))
    moved = read(PROMPT, Composition({"plain": 1.0, "patterned": 0.75}))
    again = read(PROMPT, Composition({"plain": 1.0, "patterned": 0.75}))
    assert rows == [4, 2]
    np.testing.assert_array_equal(moved.composed, again.composed)
    fresh = NextTokenReader(engine)(PROMPT, Composition({"plain": 1.0, "patterned": 0.75}))
    np.testing.assert_allclose(moved.composed, fresh.composed, rtol=1e-4)


def test_another_adapter_and_many_moves_leave_nothing_stale(tmp_path):
    engine = tiny.engine("llama", {"one": tiny.adapter(tmp_path / "one", "llama", 1, r=4)})
    read = NextTokenReader(engine)
    before = read(PROMPT, Composition({"one": 1.0}))
    assert engine.add_adapter(str(tiny.adapter(tmp_path / "two", "llama", 2, r=4))).ok
    after = read(PROMPT, Composition({"one": 1.0}))
    np.testing.assert_allclose(before.composed, after.composed, rtol=1e-4)
    for move in range(2 * KEPT):
        read(PROMPT, Composition({"one": move / KEPT}))
    assert len(read._known) <= KEPT

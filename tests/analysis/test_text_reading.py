"""A finished text read once more, against the steps that made it and passes of one token."""

from __future__ import annotations

import numpy as np
import pytest

from composer import Composition, Sampling
from composer.analysis.explain import explain
from composer.analysis.next_token import NextTokenReader
from composer.analysis.text_reading import read_text
from composer.core.errors import ComposerError
from tests.tools import tiny

PROMPT = "Who goes there"
SAMPLING = Sampling(max_new_tokens=7, seed=4)
WEIGHTS = {"rslora": 1.0, "plain": 0.5}
METHODS = ["sum", "logits", "kl", "svd", "arrow"]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def engine(request, tmp_path_factory):
    made = tiny.engine(
        request.param, tiny.three_unlike(tmp_path_factory.mktemp(request.param), request.param)
    )
    made.end_tokens = frozenset()
    return made


def text_of(engine, composition):
    return [step.token for step in engine.generate(PROMPT, composition, SAMPLING)]


@pytest.mark.parametrize("method", METHODS)
def test_pushes_are_those_that_explain_finds(engine, method):
    composition = Composition(WEIGHTS, method)
    tokens = text_of(engine, composition)
    found = read_text(engine, PROMPT, tokens, composition)
    expected = explain(engine, PROMPT, composition, SAMPLING)
    assert expected.tokens == tuple(tokens) and found.adapters == expected.adapters
    if method == "arrow":  # explain routes an adapter alone among the active ones, as this does
        np.testing.assert_allclose(found.attribution.composed, expected.attribution.composed, atol=1e-3)
        return
    for name in ("base", "alone", "composed"):
        np.testing.assert_allclose(
            getattr(found.attribution, name), getattr(expected.attribution, name), atol=2e-3
        )


def test_the_first_position_is_what_the_panel_of_next_words_shows(engine):
    composition = Composition(WEIGHTS)
    found = read_text(engine, PROMPT, text_of(engine, composition), composition)
    panel = NextTokenReader(engine)(PROMPT, composition)
    known = {token: place for place, token in enumerate(panel.tokens)}
    shared = [(place, known[t]) for place, t in enumerate(found.likeliest[0].tolist()) if t in known]
    assert len(shared) >= 9
    for own, other in shared:
        np.testing.assert_allclose(found.composed[0, own], panel.composed[other], atol=1e-4)
        np.testing.assert_allclose(found.base[0, own], panel.base[other], atol=1e-4)
        np.testing.assert_allclose(found.push[:, 0, own], panel.push[:, other], atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_sampled_token_is_among_the_likeliest_which_are_sorted(engine, method):
    composition = Composition(WEIGHTS, method)
    tokens = text_of(engine, composition)
    found = read_text(engine, PROMPT, tokens, composition)
    assert found.likeliest.shape == (7, 10)
    assert all(token in position for token, position in zip(tokens, found.likeliest.tolist(), strict=True))
    assert (np.diff(found.composed, axis=1) <= 0).all()
    place = [position.index(token) for token, position in zip(tokens, found.likeliest.tolist(), strict=True)]
    np.testing.assert_allclose(
        found.composed[np.arange(7), place], np.exp(found.attribution.composed), atol=1e-5
    )


def test_the_base_alone_has_no_pushes(engine):
    found = read_text(engine, PROMPT, text_of(engine, Composition()), Composition())
    assert found.adapters == () and found.push.shape == (0, 7, 10)
    np.testing.assert_allclose(found.base, found.composed, atol=1e-6)


def test_it_is_read_in_pieces(engine):
    pieces = []

    def execute(work):
        pieces.append(work)
        return work()

    read_text(engine, PROMPT, text_of(engine, Composition(WEIGHTS)), Composition(WEIGHTS), execute)
    assert len(pieces) == 4  # the composition, the base and two adapters


@pytest.mark.parametrize(
    "composition, tokens",
    [
        (Composition(WEIGHTS), []),
        (Composition(WEIGHTS, "kl", live=3), [65, 66]),
        (Composition(WEIGHTS, schedule={"plain": [2, 3]}), [65, 66]),
    ],
)
def test_what_cannot_be_read_in_one_pass_is_a_sentence(engine, composition, tokens):
    with pytest.raises(ComposerError):
        read_text(engine, PROMPT, tokens, composition)

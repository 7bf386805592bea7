"""The loop's endings: length, end token, time, stop, and a caller who walks away."""

from __future__ import annotations

import pytest

from composer import Composition, Sampling
from composer.core.errors import ComposerError
from composer.model.tokens import Continuation
from tests.tools import tiny

PLAIN = Composition()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return tiny.engine("llama", tiny.three_unlike(tmp_path_factory.mktemp("llama"), "llama"))


def test_length_ends_it(engine):
    steps = list(engine.generate("abc", PLAIN, Sampling(max_new_tokens=5, seed=3)))
    assert [step.finish for step in steps] == [None] * 4 + ["length"]
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert steps[-1].text == "".join(step.piece for step in steps)


def test_the_same_seed_gives_the_same_text_and_another_another(engine):
    def text(seed):
        return [s.token for s in engine.generate("abc", PLAIN, Sampling(max_new_tokens=16, seed=seed))]

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_an_end_token_ends_it_and_is_not_shown(engine, monkeypatch):
    free = [s.token for s in engine.generate("abc", PLAIN, Sampling(max_new_tokens=6, temperature=0))]
    monkeypatch.setattr(engine, "end_tokens", frozenset({free[2]}))
    steps = list(engine.generate("abc", PLAIN, Sampling(max_new_tokens=6, temperature=0)))
    assert steps[-1].finish == "end"
    assert steps[-1].token == free[2]
    assert len(steps) == free.index(free[2]) + 1
    assert steps[-1].piece == ""


def test_the_time_limit_ends_it(engine):
    steps = list(engine.generate("abc", PLAIN, Sampling(max_new_tokens=200, time_limit=0.01)))
    assert steps[-1].finish == "time"
    assert len(steps) < 200


def test_stop_ends_it_before_the_next_token(engine):
    seen = []
    for step in engine.generate("abc", PLAIN, Sampling(max_new_tokens=50), stop=lambda: len(seen) >= 3):
        seen.append(step)
    assert len(seen) == 3


def test_closing_the_iterator_leaves_no_gate_behind(engine):
    steps = engine.generate("abc", Composition(weights={"plain": 2}), Sampling(max_new_tokens=50))
    next(steps)
    steps.close()
    assert engine.model._current.get() is None


def test_rows_end_each_at_its_own_length(engine):
    rows = [("abc", PLAIN, Sampling(max_new_tokens=n, seed=n)) for n in (2, 7, 4)]
    counts = {0: 0, 1: 0, 2: 0}
    for step in engine.generate_rows(rows):
        counts[step.row] += 1
    assert counts == {0: 2, 1: 7, 2: 4}


def test_a_prompt_that_fills_the_context_leaves_room_for_the_rest_only(engine):
    prompt = "x" * (engine.base.context - 3)
    steps = list(engine.generate(prompt, PLAIN, Sampling(max_new_tokens=50)))
    assert len(steps) == 3 or steps[-1].finish == "end"


@pytest.mark.parametrize("prompt", ["", "   \n", "\ud800", "y" * 5000, "z" * 300, None])
def test_prompts_that_cannot_be_used_are_refused_in_a_sentence(engine, prompt):
    with pytest.raises(ComposerError, match=r"prompt .*[.]$"):
        engine.generate(prompt, PLAIN, Sampling())


def test_unknown_names_are_refused_with_the_nearest(engine):
    with pytest.raises(ComposerError, match="Did you mean plain"):
        engine.generate("abc", Composition(weights={"plane": 1}), Sampling())
    with pytest.raises(ComposerError, match="no method called 'sun'"):
        engine.generate("abc", Composition(method="sun"), Sampling())
    with pytest.raises(ComposerError, match="no adapter called"):
        engine.fusion("abc", names=["nobody"])


def test_multibyte_characters_arrive_whole():
    tokenizer = tiny.tokenizer()
    growing = Continuation(tokenizer, tokenizer("a")["input_ids"], frozenset())
    tokens = tokenizer("é€")["input_ids"]
    pieces = [growing.push(token, last=False) for token in tokens]
    assert pieces == ["", "é", "", "", "€"]
    assert growing.push(tokens[0], last=True) == "\ufffd"


def test_an_adapter_added_meanwhile_waits_for_the_next_generation(engine, tmp_path):
    own = tiny.engine("llama", {"one": tiny.adapter(tmp_path / "one", "llama", 1, r=2)})
    steps = own.generate("abc", Composition(weights={"one": 1}), Sampling(max_new_tokens=6, temperature=0))
    before = [next(steps)]
    assert own.add_adapter(str(tiny.adapter(tmp_path / "two", "llama", 2, r=4))).ok
    before += steps
    assert {step.contribution.shape for step in before} == {(own.model.layers, 1)}
    composition = Composition(weights={"one": 1})
    after = list(own.generate("abc", composition, Sampling(max_new_tokens=6, temperature=0)))
    assert {step.contribution.shape for step in after} == {(own.model.layers, 2)}
    assert [step.token for step in after] == [step.token for step in before]

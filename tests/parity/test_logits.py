"""The methods on the logits against separate PEFT passes, put together by the formula as it is published."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel

from composer import Composition, Engine, Sampling
from composer.core.catalog_types import Attribute
from tests.tools import tiny

PROMPT = "The quick brown fox"
MOOD = Attribute("mood", "Mood", ("plain", "rslora"))
WEIGHTS = {"plain": 0.8, "rslora": -0.3, "patterned": 0.6}
ASKED = [
    Composition(WEIGHTS, "logits", strength=1.5),
    Composition(WEIGHTS, "logits-contrast", strength=1.5, contrast=0.75),
    Composition({"plain": 1.0}, "logits-contrast"),
]
GREEDY = Sampling(max_new_tokens=10, temperature=0)


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def pair(request, tmp_path_factory):
    """An engine and a PEFT model over equal bases with the same three unlike adapters."""
    folders = tiny.three_unlike(tmp_path_factory.mktemp(request.param), request.param)
    (first, path), *rest = folders.items()
    oracle = PeftModel.from_pretrained(tiny.model(request.param), path, adapter_name=first)
    for name, path in rest:
        oracle.load_adapter(path, adapter_name=name)
    return tiny.engine(request.param, folders, (MOOD,)), oracle.eval()


@pytest.fixture(scope="module")
def engine(pair) -> Engine:
    return pair[0]


def alone(oracle: PeftModel, ids: list[int], name: str | None) -> torch.Tensor:
    """[T, V] of a pass with one adapter, or of the bare base."""
    inputs = torch.tensor([ids])
    with torch.no_grad():
        if name is None:
            with oracle.disable_adapter():
                return oracle(input_ids=inputs).logits[0].double()
        oracle.set_adapter(name)
        return oracle(input_ids=inputs).logits[0].double()


def put_together(oracle: PeftModel, ids: list[int], asked: Composition) -> torch.Tensor:
    """[T, V] by the formula: an expert for each weight, against its opposites and the base."""
    base = alone(oracle, ids, None)
    mixed = base.clone()
    for name, weight in asked.weights.items():
        against = base
        others = [other for other in MOOD.members if other != name]
        if asked.method == "logits-contrast" and name in MOOD.members:
            opposites = torch.stack([alone(oracle, ids, other) for other in others]).mean(dim=0)
            against = asked.contrast * opposites + (1 - asked.contrast) * base
        mixed += asked.strength * weight * (alone(oracle, ids, name) - against)
    return mixed


def tokens(steps) -> list[int]:
    return [step.token for step in steps]


@pytest.mark.parametrize("asked", ASKED)
def test_the_next_tokens_logits_are_those_of_separate_passes(pair, asked):
    engine, oracle = pair
    expected = put_together(oracle, engine.base.encode(PROMPT), asked)[-1].numpy()
    got = engine.next_token_logits(PROMPT, asked)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-3)
    summed = engine.next_token_logits(PROMPT, Composition(WEIGHTS, strength=1.5))
    assert np.abs(got - summed).max() > 0.1  # the outputs' sum is another thing


@pytest.mark.parametrize("asked", ASKED)
def test_a_texts_log_probs_are_those_of_separate_passes(pair, asked, monkeypatch):
    engine, oracle = pair
    texts = [PROMPT, "Fox", "The dog"]
    scoring = "composer.model.runtime.scoring"
    for chunk, rows, plain in (
        (2048, 256, True),  # all in one pass
        (60, 8, True),  # a few branches a pass, and a few positions' logits at a time
        (60, 8, False),  # an output layer that only the model's own forward pass applies
    ):
        monkeypatch.setattr(f"{scoring}.CHUNK_TOKENS", chunk)
        monkeypatch.setattr(f"{scoring}.ROWS", rows)
        if not plain:
            monkeypatch.setattr(f"{scoring}.plain_head", lambda *_: None)
        for text, got in zip(texts, engine.log_probs(texts, asked), strict=True):
            ids = engine.base.encode(text)
            logs = put_together(oracle, ids, asked)[:-1].log_softmax(dim=-1)
            expected = logs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
            np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize("asked", ASKED)
def test_every_decoded_token_is_the_choice_of_separate_uncached_passes(pair, asked):
    engine, oracle = pair
    ids = engine.base.encode(PROMPT)
    for step in engine.generate(PROMPT, asked, GREEDY):
        mixed = put_together(oracle, ids, asked)[-1]
        assert mixed.max() - mixed[step.token] < 1e-3
        ids = [*ids, step.token]
    assert len(ids) > len(engine.base.encode(PROMPT)) + 1


def test_one_adapter_is_itself_bit_for_bit(engine):
    bands = (0.5, 1.0, -1.0)
    ours, plain = (Composition({"rslora": 1}, method, bands=bands) for method in ("logits", "sum"))
    np.testing.assert_array_equal(*(engine.next_token_logits(PROMPT, each) for each in (ours, plain)))
    np.testing.assert_array_equal(*(engine.log_probs([PROMPT], each)[0] for each in (ours, plain)))
    for mine, reference in zip(
        *(engine.generate(PROMPT, each, GREEDY) for each in (ours, plain)), strict=True
    ):
        assert mine.token == reference.token
        np.testing.assert_array_equal(mine.contribution, reference.contribution)


@pytest.mark.parametrize("method", ["logits", "logits-contrast"])
def test_nothing_asked_for_is_the_base_bit_for_bit(engine, method):
    base = engine.next_token_logits(PROMPT)
    silent = dict(WEIGHTS)
    for asked in (
        Composition({}, method),
        Composition(dict.fromkeys(WEIGHTS, 0.0), method),
        Composition(silent, method, strength=0),
        Composition(silent, method, bands=(0, 0, 0)),
    ):
        np.testing.assert_array_equal(engine.next_token_logits(PROMPT, asked), base)


def test_contrast_zero_is_the_logit_sum_bit_for_bit(engine):
    plain, none = Composition(WEIGHTS, "logits"), Composition(WEIGHTS, "logits-contrast", contrast=0)
    np.testing.assert_array_equal(*(engine.next_token_logits(PROMPT, each) for each in (plain, none)))


def test_order_of_loading_does_not_matter(engine, tmp_path):
    folders = tiny.three_unlike(tmp_path, engine.base.spec.name)
    backwards = tiny.engine(engine.base.spec.name, dict(reversed(folders.items())), (MOOD,))
    for asked in ASKED:
        np.testing.assert_allclose(
            backwards.next_token_logits(PROMPT, asked), engine.next_token_logits(PROMPT, asked), atol=1e-4
        )


def test_in_a_batch_every_row_is_what_it_is_alone(engine):
    rows = [
        ("Short", Composition({"plain": 1}), GREEDY),
        (PROMPT, ASKED[0], Sampling(max_new_tokens=14, seed=1)),
        ("A prompt of middling size", Composition(), GREEDY),
        (PROMPT, ASKED[1], Sampling(max_new_tokens=4, seed=2, repetition_penalty=1.2)),
        (PROMPT, Composition({"patterned": -1, "rslora": 0.5}), Sampling(max_new_tokens=12, seed=3)),
    ]
    apart = [list(engine.generate(*row)) for row in rows]
    together = [[] for _ in rows]
    for step in engine.generate_rows(rows):
        together[step.row].append(step)
    for one, other in zip(apart, together, strict=True):
        assert tokens(one) == tokens(other)
        for mine, reference in zip(one, other, strict=True):
            np.testing.assert_allclose(mine.contribution, reference.contribution, rtol=1e-3, atol=1e-5)


def test_an_adapter_contributes_as_alone_times_its_share_of_the_logits(engine):
    step = next(engine.generate(PROMPT, ASKED[0], GREEDY))
    assert step.contribution.shape == (engine.model.layers, 3)
    for column, (name, weight) in enumerate(WEIGHTS.items()):
        own = next(engine.generate(PROMPT, Composition({name: 1.0}), GREEDY)).contribution[:, column]
        np.testing.assert_allclose(
            step.contribution[:, column], 1.5 * abs(weight) * own, rtol=1e-3, atol=1e-6
        )


def test_live_changes_nothing_where_the_prompt_is_not_read(engine):
    live = Composition(WEIGHTS, "logits", live=2)
    plain = Composition(WEIGHTS, "logits")
    assert tokens(engine.generate(PROMPT, live, GREEDY)) == tokens(engine.generate(PROMPT, plain, GREEDY))


def test_an_adapter_that_comes_in_meanwhile_changes_nothing(tmp_path):
    folders = tiny.three_unlike(tmp_path, "llama")
    late = folders.pop("patterned")
    engine = tiny.engine("llama", folders)
    asked = Composition({"plain": 1, "rslora": 1}, "logits")
    expected = tokens(engine.generate(PROMPT, asked, GREEDY))
    steps = engine.generate(PROMPT, asked, GREEDY)
    first = next(steps)
    assert engine.add_adapter(str(late), name="patterned").ok
    rest = list(steps)
    assert tokens([first, *rest]) == expected
    assert {step.contribution.shape for step in rest} == {(engine.model.layers, 2)}

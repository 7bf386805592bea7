"""Algebra that must hold whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer import Composition, Sampling
from composer.adapters.bank import AdapterBank
from composer.methods import METHODS
from composer.model.gated_model import GateCall, TelemetryRecorder
from tests.tools import tiny

PROMPT = "It was a dark and stormy night"
GREEDY = Sampling(max_new_tokens=12, temperature=0)


@pytest.fixture(scope="module", params=sorted(tiny.FAMILIES))
def engine(request, tmp_path_factory):
    return tiny.engine(
        request.param, tiny.three_unlike(tmp_path_factory.mktemp(request.param), request.param)
    )


def logits(engine, **weights):
    return engine.next_token_logits(PROMPT, Composition(weights=weights))


def prefill(engine, gates: torch.Tensor, prompt: str = PROMPT, **call):
    ids = torch.tensor([engine.base.tokenizer(prompt)["input_ids"]] * len(gates))
    call = GateCall(engine.snapshot.layout, gates, **call)
    return call, engine.model(call, input_ids=ids, use_cache=False).logits


def test_order_of_loading_does_not_matter(engine, tmp_path):
    family = engine.base.spec.name
    folders = tiny.three_unlike(tmp_path, family)
    backwards = tiny.engine(family, dict(reversed(folders.items())))
    weights = {"plain": 0.7, "rslora": 1.2, "patterned": -0.4}
    assert backwards.names == tuple(reversed(engine.names))
    np.testing.assert_allclose(logits(backwards, **weights), logits(engine, **weights), atol=1e-4)


def test_a_weight_and_its_negative_cancel(engine, tmp_path):
    family = engine.base.spec.name
    folder = tiny.three_unlike(tmp_path, family)["rslora"]
    twice = tiny.engine(family, {"one": folder, "other": folder})
    base = logits(twice)
    assert np.abs(logits(twice, one=1.3) - base).max() > 0.01
    np.testing.assert_allclose(logits(twice, one=1.3, other=-1.3), base, atol=1e-5)
    np.testing.assert_allclose(logits(twice, one=0.5, other=0.5), logits(twice, one=1), atol=1e-4)


def test_one_hot_rows_equal_each_adapter_alone(engine):
    count = len(engine.names)
    gates = torch.zeros(count + 1, engine.model.layers, count)
    for i in range(count):
        gates[i + 1, :, i] = 1
    _, rows = prefill(engine, gates)
    np.testing.assert_allclose(rows[0, -1], logits(engine), atol=1e-5)
    for i, name in enumerate(engine.names):
        np.testing.assert_allclose(rows[i + 1, -1], logits(engine, **{name: 1}), atol=1e-4)


def test_cached_and_uncached_decoding_agree(engine):
    composition = Composition(weights={"plain": 0.8, "rslora": 0.5})
    steps = list(engine.generate(PROMPT, composition, GREEDY))
    ids = engine.base.tokenizer(PROMPT)["input_ids"]
    gates = torch.tensor([[[0.8, 0.5, 0.0]] * engine.model.layers])
    for step in steps:
        call = GateCall(engine.snapshot.layout, gates)
        full = engine.model(call, input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        assert full.max() - full[step.token] < 1e-4
        ids = [*ids, step.token]
    assert len(steps) == GREEDY.max_new_tokens or steps[-1].finish == "end"


def test_rows_of_unlike_length_decode_as_they_do_alone(engine):
    rows = [
        (PROMPT, Composition(weights={"plain": 1}), GREEDY),
        ("Short", Composition(), GREEDY),
        ("A prompt of middling size", Composition(weights={"patterned": -1, "rslora": 0.5}), GREEDY),
    ]
    alone = [[step.token for step in engine.generate(*row)] for row in rows]
    together = [[] for _ in rows]
    for step in engine.generate_rows(rows):
        together[step.row].append(step.token)
    assert together == alone


def test_contributions_by_the_gram_identity_equal_explicit_ones(engine):
    weights = {"plain": 1.0, "rslora": 0.5, "patterned": -2.0}
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    hooks = []
    for path in engine.snapshot.bank.sites:
        linear = engine.base.model.get_submodule(path).base
        hooks.append(
            linear.register_forward_hook(
                lambda _m, x, out, path=path: seen.update({path: (x[0][:, -1], out[:, -1])})
            )
        )
    recorder = TelemetryRecorder()
    gates = torch.tensor([[list(weights.values())] * engine.model.layers])
    prefill(engine, gates, recorder=recorder)
    for hook in hooks:
        hook.remove()
    got = engine.snapshot.contribution(recorder.telemetry(engine.snapshot.layout, engine.model.layer_of))[
        0
    ].numpy()

    added = np.zeros((engine.model.layers, len(engine.names)))
    base = np.zeros(engine.model.layers)
    for path, (x, out) in seen.items():
        site, layer = engine.snapshot.bank.sites[path], engine.model.layer_of[path]
        base[layer] += float(out.square().sum())
        for i, weight in enumerate(weights.values()):
            own = site.adapter_index == i
            delta = (site.B[:, own] * site.scaling[own]) @ site.A[own]  # [d_out, d_in]
            added[layer, i] += float((weight * x @ delta.T).square().sum())
    np.testing.assert_allclose(got, np.sqrt(added) / np.sqrt(base)[:, None], rtol=1e-3, atol=1e-6)


def test_steps_carry_the_contribution_of_the_pass_that_chose_the_token(engine):
    composition = Composition(weights={"plain": 1.0, "rslora": -1.0})
    step = next(engine.generate(PROMPT, composition, GREEDY))
    recorder = TelemetryRecorder()
    prefill(engine, torch.tensor([[[1.0, -1.0, 0.0]] * engine.model.layers]), recorder=recorder)
    expected = engine.snapshot.contribution(
        recorder.telemetry(engine.snapshot.layout, engine.model.layer_of)
    )[0].numpy()
    np.testing.assert_allclose(step.contribution, expected, rtol=1e-3, atol=1e-6)
    assert (step.contribution[:, 2] == 0).all()
    assert (step.contribution[:, :2] > 0).any()


def test_kl_with_blend_zero_is_the_sum(engine):
    weights = {"plain": 1.0, "patterned": 0.5}
    summed = engine.next_token_logits(PROMPT, Composition(weights=weights))
    blended = engine.next_token_logits(PROMPT, Composition(weights=weights, method="kl", blend=0))
    np.testing.assert_allclose(blended, summed, atol=1e-6)


# Dynamic composition weights a single adapter, too.
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.every_token])
def test_one_adapter_at_weight_one_is_itself_whatever_the_method(engine, method):
    alone = logits(engine, plain=1)
    asked = Composition(weights={"plain": 1, "patterned": 0}, method=method)
    np.testing.assert_allclose(engine.next_token_logits(PROMPT, asked), alone, atol=1e-4)
    assert np.abs(alone - logits(engine)).max() > 1e-3


def test_an_empty_bank_generates_as_the_base_and_contributes_nothing():
    engine = tiny.engine("llama", {})
    assert engine.snapshot.bank == AdapterBank()
    steps = list(engine.generate(PROMPT, Composition(), GREEDY))
    assert steps and steps[0].contribution.shape == (engine.model.layers, 0)

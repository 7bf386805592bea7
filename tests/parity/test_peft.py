"""PEFT as the oracle: what it computes with one or several active adapters, the bank must compute too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel

from composer import Composition
from composer.core.results import UNDECIDED
from tests.tools import tiny

PROMPT = "The quick brown fox"
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=sorted(tiny.FAMILIES))
def pair(request, tmp_path_factory):
    """An engine and a PEFT model over equal bases with the same three unlike adapters."""
    folders = tiny.three_unlike(tmp_path_factory.mktemp(request.param), request.param)
    (first, path), *rest = folders.items()
    oracle = PeftModel.from_pretrained(tiny.model(request.param), path, adapter_name=first)
    for name, path in rest:
        oracle.load_adapter(path, adapter_name=name)
    return tiny.engine(request.param, folders), oracle.eval()


def peft_forward(oracle, engine, names, **options):
    ids = torch.tensor([engine.base.tokenizer(PROMPT)["input_ids"]])
    with torch.no_grad():
        if not names:
            with oracle.disable_adapter():
                return oracle(input_ids=ids, **options)
        oracle.base_model.set_adapter(list(names))
        return oracle(input_ids=ids, **options)


def peft_logits(oracle, engine, names) -> np.ndarray:
    return peft_forward(oracle, engine, names).logits[0, -1].numpy()


def ours(engine, **weights) -> np.ndarray:
    return engine.next_token_logits(PROMPT, Composition(weights=weights))


def test_weight_zero_is_the_base_bit_for_bit(pair):
    engine, oracle = pair
    base = peft_logits(oracle, engine, [])
    assert np.array_equal(ours(engine), base)
    assert np.array_equal(ours(engine, plain=0, rslora=0.0, patterned=-0.0), base)


def test_each_adapter_alone_equals_peft(pair):
    engine, oracle = pair
    base = ours(engine)
    for name in engine.names:
        alone = ours(engine, **{name: 1})
        assert np.abs(alone - base).max() > 0.01, "the adapter must matter, or the test says nothing"
        assert np.abs(alone - peft_logits(oracle, engine, [name])).max() < TOLERANCE


@pytest.mark.parametrize("names", [("plain", "rslora"), ("plain", "rslora", "patterned")])
def test_several_active_equal_peft(pair, names):
    engine, oracle = pair
    together = ours(engine, **dict.fromkeys(names, 1))
    assert np.abs(together - peft_logits(oracle, engine, names)).max() < TOLERANCE


def test_fractional_and_negative_weights_equal_peft_with_scaled_adapters(pair):
    engine, oracle = pair
    weights = {"plain": 0.35, "rslora": -1.5, "patterned": 2.0}
    scaled = [module for module in oracle.modules() if isinstance(getattr(module, "scaling", None), dict)]
    before = [dict(module.scaling) for module in scaled]
    for module in scaled:
        for name in module.scaling:
            module.scaling[name] *= weights[name]
    expected = peft_logits(oracle, engine, weights)
    for module, scaling in zip(scaled, before, strict=True):
        module.scaling.update(scaling)
    assert np.abs(ours(engine, **weights) - expected).max() < TOLERANCE


def test_next_token_logits_are_float32_over_the_vocabulary(pair):
    engine, _ = pair
    logits = ours(engine, plain=1)
    assert logits.dtype == np.float32
    assert logits.shape == (engine.base.model.config.vocab_size,)


@pytest.mark.parametrize("norm", [True, False])
def test_fusion_equals_separate_peft_passes(pair, norm):
    engine, oracle = pair
    logs = {name: lens_log_probs(oracle, engine, [name], norm) for name in engine.names}
    p = lens_log_probs(oracle, engine, [], norm)
    kl = np.stack(
        [[np.sum(np.exp(b) * (b - a)) for b, a in zip(p, logs[n], strict=True)] for n in engine.names]
    )
    kl = kl.T
    fusion = engine.fusion(PROMPT, norm=norm)
    assert fusion.kl.shape == fusion.alpha.shape == (engine.model.layers, len(engine.names))
    np.testing.assert_allclose(fusion.kl, kl, atol=1e-5, rtol=1e-3)
    decided = kl.sum(axis=1) >= UNDECIDED
    assert decided.any()
    expected = kl[decided] / kl[decided].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fusion.alpha[decided], expected, atol=1e-3)


def lens_log_probs(oracle, engine, names, norm) -> list[np.ndarray]:
    """Per layer, the lens's log-probabilities at the last token, from a plain PEFT pass and forward hooks."""
    model = oracle.get_base_model()
    body = model.model if hasattr(model, "model") else model.gpt_neox
    final = body.norm if hasattr(body, "norm") else body.final_layer_norm
    seen = []
    hooks = [
        layer.register_forward_hook(
            lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in body.layers
    ]
    peft_forward(oracle, engine, names)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        return [
            model.get_output_embeddings()(final(hidden[:, -1]) if norm else hidden[:, -1])
            .double()
            .log_softmax(-1)[0]
            .numpy()
            for hidden in seen
        ]


def test_fusion_of_named_adapters_keeps_their_order(pair):
    engine, _ = pair
    everyone = engine.fusion(PROMPT)
    some = engine.fusion(PROMPT, names=["patterned", "plain"])
    np.testing.assert_allclose(some.kl, everyone.kl[:, [2, 0]], atol=1e-6)
    np.testing.assert_allclose(some.alpha.sum(axis=1), 1, atol=1e-5)

"""What methods read of a prompt, against plain passes that read one thing at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.prompt_analyzer import PromptAnalyzer
from composer.methods import METHODS
from composer.model.gated_model import GateCall, gates_tensor
from tests.tools import tiny

PROMPT = "Who goes there"
COLUMNS = [2, 0]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def engine(request, tmp_path_factory):
    return tiny.engine(
        request.param, tiny.three_unlike(tmp_path_factory.mktemp(request.param), request.param)
    )


@pytest.fixture(scope="module")
def analyzer(engine):
    return PromptAnalyzer(engine.model, engine.runner)


def hidden(engine, column: int | None) -> np.ndarray:
    """Hidden states [L, d] at the prompt's last token, one adapter alone or none, from a pass of its own."""
    gates = np.zeros((1, engine.model.layers, len(engine.names)))
    if column is not None:
        gates[:, :, column] = 1
    call = GateCall(engine.snapshot.layout, gates_tensor(gates, engine.base.device), capture="last")
    engine.model.body(call, input_ids=torch.tensor([engine.base.encode(PROMPT)]), use_cache=False)
    return torch.cat(call.hidden).double().numpy()


def test_distance_is_one_minus_the_cosine_of_hidden_states(engine, analyzer):
    base = hidden(engine, None)
    got = analyzer.distance(engine.snapshot, engine.base.encode(PROMPT), COLUMNS)
    for place, column in enumerate(COLUMNS):
        own = hidden(engine, column)
        cosine = (base * own).sum(axis=1) / np.linalg.norm(base, axis=1) / np.linalg.norm(own, axis=1)
        np.testing.assert_allclose(got[:, place], 1 - cosine, atol=1e-5)
    assert got.max() > 1e-3


def test_share_is_the_contribution_of_each_adapter_alone(engine, analyzer):
    got = analyzer.contribution(engine.snapshot, engine.base.encode(PROMPT), COLUMNS)
    for place, column in enumerate(COLUMNS):
        alone = Composition(weights={engine.names[column]: 1})
        (step,) = engine.generate(PROMPT, alone, Sampling(max_new_tokens=1))
        np.testing.assert_allclose(got[:, place], step.contribution[:, column], rtol=1e-3, atol=1e-6)


def test_pull_is_what_the_adapter_adds_to_the_last_query_on_the_bases_own_state(engine, analyzer):
    path = [path for path in engine.model.sites if path.endswith("self_attn.q_proj")][-1]
    heard = []
    layer = engine.base.model.get_submodule(path)
    hook = layer.register_forward_pre_hook(lambda _m, inputs: heard.append(inputs[0]))
    engine.model.body(None, input_ids=torch.tensor([engine.base.encode(PROMPT)]), use_cache=False)
    hook.remove()
    x, site = heard[0][0, -1], engine.snapshot.bank.sites[path]
    expected = []
    for column in range(3):
        own = site.adapter_index == column
        expected.append(float(torch.linalg.norm(site.B[:, own] @ (site.scaling[own] * (site.A[own] @ x)))))
    got = analyzer.query_norm(engine.snapshot, engine.base.encode(PROMPT), [0, 1, 2])
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6)
    assert max(expected) > 0


def test_kl_over_all_tokens_is_the_mean_of_kl_at_each(engine, analyzer):
    ids = engine.base.encode(PROMPT)
    each = [analyzer.divergence(engine.snapshot, ids[: end + 1], COLUMNS, True) for end in range(len(ids))]
    got = analyzer.divergence(engine.snapshot, ids, COLUMNS, True, every=True)
    np.testing.assert_allclose(got, np.mean(each, axis=0), atol=1e-5, rtol=1e-3)


def test_all_tokens_are_not_answered_with_the_last_ones_fusion(engine):
    known = engine.fusion(PROMPT)
    weights = dict.fromkeys(engine.names, 1.0)

    def gates(tokens: str) -> np.ndarray:
        asked = Composition(weights, "kl", tokens=tokens)
        return engine.row(0, PROMPT, asked, Sampling(), known).mixture.gates[0]

    assert np.abs(gates("last") - gates("all")).max() > 1e-3
    asked = Composition(weights, "kl", tokens="all")
    known = engine.fusion(PROMPT, composition=asked)
    assert known.tokens == "all" and not engine.resolve(asked).missing_stats(known)
    np.testing.assert_allclose(
        engine.row(0, PROMPT, asked, Sampling(), known).mixture.gates[0], gates("all"), atol=1e-5
    )


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if "live" in method.parameters])
def test_a_live_method_reads_what_was_written_since(engine, method, monkeypatch):
    read = []
    plainly = PromptAnalyzer.__call__
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    monkeypatch.setattr(
        PromptAnalyzer, "__call__", lambda *given: read.append(len(given[-1])) or plainly(*given)
    )
    weights, sampling = dict.fromkeys(engine.names[:2], 1.0), Sampling(max_new_tokens=8, seed=1)
    prompt = len(engine.base.encode(PROMPT))
    assert len(list(engine.generate(PROMPT, Composition(weights, method, live=3), sampling))) == 8
    assert read == [prompt, prompt + 3, prompt + 6]
    for composition in (Composition(weights, method), Composition(weights, "balanced", live=3)):
        read.clear()
        list(engine.generate(PROMPT, composition, sampling))
        assert read == [prompt]


@pytest.mark.parametrize("bad", [{"tokens": "some"}, {"live": -1}, {"live": 1.5}, {"blend": 10**400}])
def test_a_dial_out_of_range_is_a_sentence(bad):
    with pytest.raises(ComposerError):
        Composition(**bad)


def test_logo_with_nothing_to_compare_is_a_sentence(tmp_path):
    neox = tiny.engine("gpt_neox", tiny.three_unlike(tmp_path, "gpt_neox"))
    with pytest.raises(ComposerError, match="choose another method"):
        neox.next_token_logits(PROMPT, Composition(dict.fromkeys(neox.names, 1.0), "logo"))
    alone = {neox.names[0]: 1.0}
    np.testing.assert_array_equal(
        neox.next_token_logits(PROMPT, Composition(alone, "logo")),
        neox.next_token_logits(PROMPT, Composition(alone)),
    )

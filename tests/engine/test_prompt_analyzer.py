"""What methods read of a prompt, against plain passes that read one thing at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.prompt_analyzer import PromptAnalyzer, divergence_of_likely
from composer.methods import METHODS
from composer.model.gated_model import GateCall, gates_tensor
from composer.model.lens import FARTHEST
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


def test_likelihood_is_the_mean_log_probability_of_the_prompt_under_each_adapter_alone(engine, analyzer):
    got = analyzer.likelihood(engine.snapshot, engine.base.encode(PROMPT), COLUMNS)
    alone = [engine.log_probs([PROMPT], Composition({engine.names[column]: 1})) for column in COLUMNS]
    np.testing.assert_allclose(got, [logs[0].mean() for logs in alone], rtol=1e-5)
    assert np.ptp(got) > 1e-4
    one = engine.base.encode(PROMPT)[:1]
    assert analyzer.likelihood(engine.snapshot, one, COLUMNS).tolist() == [0, 0]


def test_next_token_is_the_divergence_over_the_words_that_are_likely_in_either(engine, analyzer):
    got = analyzer.next_token(engine.snapshot, engine.base.encode(PROMPT), COLUMNS)
    base = engine.next_token_logits(PROMPT).astype(np.float64)
    for place, column in enumerate(COLUMNS):
        alone = engine.next_token_logits(PROMPT, Composition({engine.names[column]: 1})).astype(np.float64)
        words = sorted(nucleus(base) | nucleus(alone))
        p, q = (np.exp(each[words]) / np.exp(each[words]).sum() for each in (base, alone))
        np.testing.assert_allclose(got[place], (p * np.log(p / q)).sum(), rtol=1e-3, atol=1e-5)


def nucleus(logits: np.ndarray, top_p: float = 0.95) -> set[int]:
    chance = np.exp(logits - logits.max())
    chance /= chance.sum()
    words, total = set(), 0.0
    for word in np.argsort(-chance):
        if total > top_p:
            break
        words.add(int(word))
        total += chance[word]
    return words


def test_a_likely_word_is_one_before_which_the_others_have_less_than_top_p():
    p = torch.tensor([0.6, 0.3, 0.06, 0.04])
    q = torch.tensor([0.1, 0.2, 0.1, 0.6])
    # Of p the first two, of q all but the third (or the first, which is as likely): together 1, 2 and 4.
    got = divergence_of_likely(torch.stack([p, q, p]).log(), top_p=0.75)
    some = torch.tensor([0, 1, 3])
    a, b = p[some] / p[some].sum(), q[some] / q[some].sum()
    torch.testing.assert_close(got, torch.stack([(a * (a / b).log()).sum(), torch.tensor(0.0)]))


def test_an_adapter_that_overflows_is_farthest():
    logits = torch.tensor([[1.0, 2.0], [torch.nan, torch.nan], [1.0, 2.0]])
    assert divergence_of_likely(logits, 0.95).tolist() == [pytest.approx(FARTHEST), 0]


def test_dynamic_composition_reads_all_that_is_written_before_every_token(engine, monkeypatch):
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    asked = Composition(dict.fromkeys(engine.names[:2], 1.0), "dynamic")
    session, row = engine.start(1, 64), engine.row(0, PROMPT, asked, Sampling(max_new_tokens=4))
    steps = session.add([row])
    while session.keys:
        read = engine.base.encode(PROMPT) + [step.token for step in steps]
        before = row.mixture
        steps += session.step()
        stats = PromptAnalyzer(engine.model, engine.runner).next_token(engine.snapshot, read, [0, 1])
        np.testing.assert_allclose(row.mixture.gates[0][0, :2], np.minimum(stats, 1), rtol=1e-3, atol=1e-5)
        assert row.mixture is not before
    assert len(steps) == 4


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

"""Arrow: every token shares out its gates. Held to the long way, to PEFT's router, and to the plain sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import ArrowConfig
from peft.tuners.lora.arrow import ArrowLoraLinearLayer, create_arrow_model

from composer import Composition, Engine, Sampling
from composer.adapters.bank import AdapterBank, LoraFactors
from composer.analysis.explain import explain
from composer.analysis.text_report import as_text
from composer.methods import METHODS
from composer.model.gated_model import gates_tensor
from composer.model.runtime.batch import Batch
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.kv_cache import KVCache
from composer.model.runtime.runner import Inputs, TransformersRunner
from composer.model.runtime.token_routing import RouterConfig, TokenRouter
from tests.tools import tiny
from tests.tools.routed import by_hand, dense

PROMPT = "The quick brown fox"
GREEDY = Sampling(max_new_tokens=10, temperature=0)
WEIGHTS = {"plain": 1.0, "rslora": -0.7, "patterned": 1.4}
ARROW = Composition(WEIGHTS, method="arrow")
SPECTR = Composition(WEIGHTS, method="spectr")


@pytest.fixture(scope="module", params=sorted(tiny.FAMILIES))
def engine(request, tmp_path_factory) -> Engine:
    """Adapters that differ in rank and in the sites they have."""
    family = request.param
    return tiny.engine(family, tiny.three_unlike(tmp_path_factory.mktemp(family), family))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Engine:
    return tiny.engine("llama", tiny.three_unlike(tmp_path_factory.mktemp("llama"), "llama"))


def ids_of(engine: Engine, text: str = PROMPT) -> list[int]:
    return engine.base.tokenizer(text)["input_ids"]


def tokens(steps) -> list[int]:
    return [step.token for step in steps]


# --- the formula -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("blend", "scale"), [(1, "unit"), (1, "paper"), (0.4, "unit"), (0.4, "paper")])
def test_tokens_share_out_their_gates_as_the_long_way_does(engine, blend, scale):
    composition = replace(ARROW, blend=blend, scale=scale)
    expected = by_hand(engine, ids_of(engine), WEIGHTS, blend, scale == "unit")
    got = engine.next_token_logits(PROMPT, composition)
    np.testing.assert_allclose(got, expected.logits[-1], atol=1e-4)
    summed = engine.next_token_logits(PROMPT, replace(composition, method="sum"))
    assert np.abs(got - summed).max() > 0.01, "sharing must matter, or the test says nothing"
    logs = expected.logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids_of(engine))[1:, None])[:, 0]
    np.testing.assert_allclose(engine.log_probs([PROMPT, "ab"], composition)[0], logs, atol=1e-4)
    step = next(engine.generate(PROMPT, composition, GREEDY))
    np.testing.assert_allclose(step.contribution, expected.contribution, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("blend", "scale", "top"), [(1, "unit", None), (0.4, "paper", None), (1, "unit", 2), (1, "paper", 1)]
)
def test_spectr_shares_by_the_norm_of_what_each_adapter_adds(engine, blend, scale, top):
    composition = replace(SPECTR, blend=blend, scale=scale, top_adapters=top)
    ids = ids_of(engine)
    expected = by_hand(engine, ids, WEIGHTS, blend, scale == "unit", by_norm=True, top=top)
    got = engine.next_token_logits(PROMPT, composition)
    np.testing.assert_allclose(got, expected.logits[-1], atol=1e-4)
    assert np.abs(got - engine.next_token_logits(PROMPT, replace(composition, method="arrow"))).max() > 1e-3
    step = next(engine.generate(PROMPT, composition, GREEDY))
    np.testing.assert_allclose(step.contribution, expected.contribution, rtol=1e-3, atol=1e-6)


def test_spectr_of_more_adapters_than_there_are_is_spectr_of_all(engine):
    every, more = (engine.next_token_logits(PROMPT, replace(SPECTR, top_adapters=top)) for top in (None, 7))
    assert np.array_equal(every, more)
    # Arrow has no such parameter.
    one = engine.next_token_logits(PROMPT, replace(ARROW, top_adapters=1))
    assert np.array_equal(one, engine.next_token_logits(PROMPT, ARROW))


def test_an_adapter_that_overflows_spoils_no_other_rows_norms(llama):
    site = next(iter(llama.snapshot.bank.sites))
    layout = llama.snapshot.layout
    loud = replace(layout, scaling=torch.where(layout.adapter_index == 1, torch.inf, layout.scaling))
    only = np.array([True, False, True])
    routes = [RouterConfig(only, 1.0, True, by_norm=True), RouterConfig(PART, 1.0, True, by_norm=True)]
    start, end = layout.spans[site]
    z = torch.randn(2, end - start, generator=torch.Generator().manual_seed(0))
    plain, broken = (TokenRouter.of(each, routes)(z, start, end) for each in (layout, loud))
    assert torch.equal(plain[0], broken[0]) and not torch.isfinite(broken[1]).all()


def test_strength_and_bands_multiply_what_is_shared_out(engine):
    halved = engine.next_token_logits(PROMPT, replace(ARROW, strength=0.5))
    weights = {name: weight / 2 for name, weight in WEIGHTS.items()}
    np.testing.assert_allclose(halved, by_hand(engine, ids_of(engine), weights).logits[-1], atol=1e-4)
    silent = engine.next_token_logits(PROMPT, replace(ARROW, bands=(0, 0, 0)))
    np.testing.assert_array_equal(silent, engine.next_token_logits(PROMPT))


def test_who_takes_no_part_has_no_share(engine):
    weights = {"plain": 1.0, "patterned": 0.5}
    got = engine.next_token_logits(PROMPT, Composition({**weights, "rslora": 0}, method="arrow"))
    np.testing.assert_allclose(got, by_hand(engine, ids_of(engine), weights).logits[-1], atol=1e-4)


def test_it_is_pefts_router(tmp_path, monkeypatch):
    # PEFT iterates towards the direction and stops on the way; here it is let arrive.
    monkeypatch.setattr(ArrowLoraLinearLayer.top_right_singular_vec_from_BA, "__defaults__", (5000, 1e-12))
    folders = {
        name: tiny.adapter(tmp_path / name, "llama", seed, r=4, lora_alpha=alpha, target_modules=["q_proj"])
        for seed, (name, alpha) in enumerate({"a": 8, "b": 4, "c": 12}.items())
    }
    oracle = create_arrow_model(
        tiny.model("llama"), [str(folder) for folder in folders.values()], ArrowConfig(top_k=3)
    ).eval()
    built = tiny.engine("llama", folders)
    with torch.no_grad():
        expected = oracle(input_ids=torch.tensor([ids_of(built)])).logits[0, -1]
    got = built.next_token_logits(PROMPT, Composition(dict.fromkeys(folders, 1), "arrow", scale="paper"))
    np.testing.assert_allclose(got, expected, atol=1e-4)
    for path, site in built.snapshot.bank.sites.items():
        router = oracle.base_model.model.get_submodule(path).lora_arrow["arrow_router"]
        for adapter, reference in enumerate(router.prototypes):
            own = site.adapter_index == adapter
            ours = site.prototype[own] @ site.A[own]
            assert float((ours @ reference).abs()) == pytest.approx(1, abs=1e-4)


# --- prototypes ------------------------------------------------------------------------------------


def test_a_prototype_is_the_top_right_singular_vector(llama):
    for site in llama.snapshot.bank.sites.values():
        for adapter in site.adapter_index.unique().tolist():
            own = site.adapter_index == adapter
            v = site.prototype[own].double() @ site.A[own].double()  # [d_in]
            assert float((v @ torch.linalg.svd(dense(site, adapter)).Vh[0]).abs()) == pytest.approx(
                1, abs=1e-5
            )
            assert float(v.norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prototypes_of_degenerate_factors(dtype):
    """Rows that depend on each other, more rank than width, and an adapter that adds nothing."""
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    row = some(1, 6)
    twins = LoraFactors(torch.cat([row, row, 2 * row]), some(5, 3), 1.0)
    wide = LoraFactors(some(9, 6), some(5, 9), -2.0)
    mute = LoraFactors(some(2, 6), torch.zeros(5, 2, dtype=dtype), 1.0)
    bank = AdapterBank()
    for name, factors in {"twins": twins, "wide": wide, "mute": mute}.items():
        bank = bank.add(name, {"site": factors})
    site = bank.sites["site"]
    for adapter in (0, 1):
        own = site.adapter_index == adapter
        v = site.prototype[own].double() @ site.A[own].double()  # [d_in]
        first = torch.linalg.svd(dense(site, adapter)).Vh[0]
        assert float((v @ first).abs()) == pytest.approx(1, abs=1e-4)
    assert site.prototype[-2:].tolist() == [0, 0]


def test_an_adapter_that_adds_nothing_still_takes_its_share(tmp_path, llama):
    folders = tiny.three_unlike(tmp_path, "llama")
    built = tiny.engine("llama", {"plain": folders["plain"], "mute": folders["rslora"]})
    for site in built.snapshot.bank.sites.values():
        if own := site.part(1):
            own.B.zero_()
    both = built.next_token_logits(PROMPT, Composition({"plain": 1, "mute": 1}, method="arrow"))
    alone = built.next_token_logits(PROMPT, Composition({"plain": 1}))
    assert np.isfinite(both).all() and np.abs(both - alone).max() > 1e-3


# --- what it must not change -------------------------------------------------------------------------


def test_one_adapter_is_itself_to_the_bit(engine):
    for name in engine.names:
        for scale in ("unit", "paper"):
            arrow = Composition({name: 1}, method="arrow", scale=scale)
            summed = Composition({name: 1})
            assert np.array_equal(
                engine.next_token_logits(PROMPT, arrow), engine.next_token_logits(PROMPT, summed)
            )


def test_blend_zero_is_the_sum_and_no_weights_are_the_base_to_the_bit(engine):
    base, summed = (engine.next_token_logits(PROMPT, Composition(each)) for each in ({}, WEIGHTS))
    assert np.array_equal(engine.next_token_logits(PROMPT, replace(ARROW, blend=0)), summed)
    none = Composition(dict.fromkeys(WEIGHTS, 0), method="arrow")
    assert np.array_equal(engine.next_token_logits(PROMPT, none), base)
    assert tokens(engine.generate(PROMPT, none, GREEDY)) == tokens(
        engine.generate(PROMPT, Composition(), GREEDY)
    )


def test_a_bank_without_adapters_generates_as_the_base():
    built = tiny.engine("llama", {})
    arrow, plain = (built.generate(PROMPT, Composition(method=name), GREEDY) for name in ("arrow", "sum"))
    assert tokens(arrow) == tokens(plain)


def test_order_of_loading_does_not_matter(engine, tmp_path):
    family = engine.base.spec.name
    backwards = tiny.engine(family, dict(reversed(tiny.three_unlike(tmp_path, family).items())))
    assert backwards.names == tuple(reversed(engine.names))
    np.testing.assert_allclose(
        backwards.next_token_logits(PROMPT, ARROW), engine.next_token_logits(PROMPT, ARROW), atol=1e-4
    )


# --- passes ------------------------------------------------------------------------------------------


def test_cached_and_uncached_decoding_agree(engine):
    ids = ids_of(engine)
    for step in engine.generate(PROMPT, ARROW, GREEDY):
        expected = by_hand(engine, ids, WEIGHTS)
        assert expected.logits[-1].max() - expected.logits[-1, step.token] < 1e-4
        np.testing.assert_allclose(step.contribution, expected.contribution, rtol=1e-3, atol=1e-5)
        ids = [*ids, step.token]
    assert len(ids) == len(ids_of(engine)) + GREEDY.max_new_tokens


def test_routed_rows_and_others_decode_together_as_they_do_alone(engine):
    rows = [
        (PROMPT, ARROW, GREEDY),
        (PROMPT, replace(SPECTR, top_adapters=2), GREEDY),
        ("Short", Composition(WEIGHTS), GREEDY),
        ("Short", SPECTR, GREEDY),
        ("A prompt of middling size", replace(ARROW, blend=0.5, scale="paper"), GREEDY),
        ("Base", Composition(), replace(GREEDY, max_new_tokens=20)),  # goes on when no routed row is left
    ]
    alone = [tokens(engine.generate(*row)) for row in rows]
    together: list[list[int]] = [[] for _ in rows]
    for step in engine.generate_rows(rows):
        together[step.row].append(step.token)
    assert together == alone


def passes(engine: Engine, decode, routes):
    """Logits and coded z of three rows: their prompts read, then one token decoded."""
    layout = engine.snapshot.layout
    gates = gates_tensor([[list(WEIGHTS.values())] * engine.model.layers] * 3, engine.base.device)
    prompts = [ids_of(engine, text) for text in (PROMPT, "Short", "middling")]
    read = decode.read(layout, gates, prompts, routes=routes)
    cache = KVCache(3, 64)
    for row, prompt in enumerate(prompts):
        cache.write(row, len(prompt), read, row)
    inputs = Inputs(torch.tensor([5, 6, 7]), torch.tensor([len(prompt) for prompt in prompts]), 64)
    logits, telemetry = decode(decode.prepare(layout, gates, routes), inputs, cache)
    return [(read.logits, read.telemetry.coded), (logits, telemetry.coded)]


PART = np.ones(3, bool)
SOME = [RouterConfig(PART, 1.0, True), None, RouterConfig(PART, 0.5, False, by_norm=True, top=1)]


def test_a_row_without_a_route_is_what_it_is_to_the_bit(engine):
    for decode in (engine.runner, TransformersRunner(engine.model)):
        for mixed, plain in zip(passes(engine, decode, SOME), passes(engine, decode, ()), strict=True):
            for one, other in zip(mixed, plain, strict=True):
                assert torch.equal(one[1], other[1])
                assert not torch.allclose(one[0], other[0]) and not torch.allclose(one[2], other[2])


def test_both_passes_route_alike(llama):
    for one, other in zip(
        passes(llama, llama.runner, SOME), passes(llama, TransformersRunner(llama.model), SOME), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("routed", [ARROW, SPECTR, replace(SPECTR, top_adapters=1)])
def test_routed_batches_decode_in_the_compiled_step_too(routed, tmp_path, monkeypatch):
    built = tiny.engine("llama", tiny.three_unlike(tmp_path, "llama"))
    before = tokens(built.generate(PROMPT, routed, GREEDY))
    built.runner.compile()

    def uncompiled(*_):
        raise RuntimeError("the step ran uncompiled")

    monkeypatch.setattr(type(built.runner.inner), "__call__", uncompiled)
    assert tokens(built.generate(PROMPT, routed, GREEDY)) == before


def test_routed_batches_are_captured_as_graphs(llama):
    recorded = []
    graphs = CudaGraphRunner(llama.runner.inner, lambda run: recorded.append(run) or run)
    found = []
    for decode in (graphs, llama.runner):
        layout = llama.snapshot.layout
        batch = Batch(decode, layout, frozenset(), slots=2, max_seq_len=128)
        batch.add([llama.row(0, PROMPT, ARROW, GREEDY)], layout)
        for _ in range(3):
            batch.step()
        found.append(batch.rows[0].ids)
    assert found[0] == found[1] and len(recorded) == 1


def test_int8_reads_prompts_with_the_bases_own_weights_and_decodes_with_rounded_ones(llama):
    base = llama.base.__class__(**{**vars(llama.base), "model": tiny.model("llama")})
    eight = Engine(llama.catalog, base, "int8")
    for spec in llama.snapshot.adapters:
        assert eight.add_adapter(spec.source, name=spec.name).ok
    np.testing.assert_allclose(
        eight.next_token_logits(PROMPT, ARROW), llama.next_token_logits(PROMPT, ARROW), atol=1e-5
    )
    (_, own), (_, other) = (passes(each, each.runner, SOME) for each in (llama, eight))
    assert not torch.equal(own[0], other[0])
    torch.testing.assert_close(own[0], other[0], atol=0.1, rtol=0)


def test_a_routed_row_goes_on_as_it_was_when_an_adapter_is_added(tmp_path):
    folders = tiny.three_unlike(tmp_path, "llama")
    last = folders.pop("patterned")
    built = tiny.engine("llama", folders)
    composition = Composition({"plain": 1, "rslora": 0.5}, method="arrow")
    before = tokens(built.generate(PROMPT, composition, GREEDY))
    run = built.start(2, 64)
    steps = run.add([built.row("old", PROMPT, composition, GREEDY)])
    assert built.add_adapter(str(last), name="patterned").ok
    steps += run.add([built.row("new", PROMPT, composition, GREEDY)])
    while run.keys:
        steps += run.step()
    assert {key: [s.token for s in steps if s.row == key] for key in ("old", "new")} == {
        "old": before,
        "new": before,
    }


# --- explained ---------------------------------------------------------------------------------------


def test_an_adapter_alone_keeps_its_share_among_the_active_ones(engine):
    text = " jumps"
    found = explain(engine, PROMPT, ARROW, text=text)
    ids = ids_of(engine, PROMPT + text)

    def logs(heard) -> np.ndarray:
        logits = by_hand(engine, ids, WEIGHTS, heard=heard).logits.log_softmax(-1)
        return logits[:-1].gather(1, torch.tensor(ids)[1:, None])[-len(text) :, 0].numpy()

    np.testing.assert_allclose(found.attribution.composed, logs(None), atol=1e-4)
    for i, name in enumerate(found.adapters):
        np.testing.assert_allclose(found.attribution.alone[i], logs([name]), atol=1e-4)
    np.testing.assert_allclose(found.gates, [list(WEIGHTS.values())] * engine.model.layers, rtol=1e-6)
    assert np.isfinite(found.bands.change).all() and np.isfinite(found.additivity)
    assert "before each token shares them out" in as_text(found)


def test_a_zero_weight_beside_the_routed_ones_is_not_explained(llama):
    found = explain(llama, PROMPT, Composition({"plain": 0, "rslora": 1, "patterned": 1}, "arrow"), text="ab")
    assert found.adapters == ("rslora", "patterned")
    expected = llama.log_probs([PROMPT + "ab"], Composition({"rslora": 1, "patterned": 1}, "arrow"))[0][-2:]
    np.testing.assert_allclose(found.attribution.composed, expected, atol=1e-4)


def test_routed_methods_read_no_prompt_beforehand(llama):
    assert [name for name, method in METHODS.items() if method.token_routed] == ["arrow", "spectr"]
    assert not llama.resolve(ARROW).missing_stats(None) and not llama.resolve(SPECTR).missing_stats(None)
    assert llama.row(0, PROMPT, Composition(WEIGHTS), GREEDY).router is None

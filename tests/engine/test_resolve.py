"""Adapters that are made of others: what they add, whose place they take, and who is not disturbed."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from composer import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.adapter_pool import MAX_POOL_RANK, RANK_ALIGNMENT
from composer.engine.resolve import lane_names
from composer.engine.scheduler import Scheduler
from composer.methods import METHODS
from composer.methods.merging import CALIBRATIONS, MERGES, Options, calibrate, merge
from tests.tools import tiny

PROMPT = "It was a dark and stormy night"
GREEDY = Sampling(max_new_tokens=8, temperature=0)
WEIGHTS = {"one": 1.0, "two": 0.5}
MADE = [name for name, method in METHODS.items() if method.merge or method.calibrated]


def folders(folder, family):
    """Adapters of one rank, so that every merge takes them; one lacks a site that the other has."""
    first, _, third = tiny.NAMES[family]
    return {
        "one": tiny.adapter(folder / "one", family, 1, r=4, lora_alpha=8),
        "two": tiny.adapter(folder / "two", family, 2, r=4, lora_alpha=3, target_modules=[first, third]),
        "three": tiny.adapter(folder / "three", family, 3, r=4, lora_alpha=6),
    }


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def made(request, tmp_path_factory):
    return request.param, folders(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def engine(made):
    return tiny.engine(*made)


def logits(engine, method="sum", weights=WEIGHTS, **parameters):
    return engine.next_token_logits(PROMPT, Composition(weights, method, **parameters))


@pytest.mark.parametrize("method", MADE)
def test_one_adapter_at_weight_one_is_itself(engine, method):
    np.testing.assert_array_equal(logits(engine, method, {"one": 1}), logits(engine, "sum", {"one": 1}))
    assert len(engine.snapshot.bank.names) == len(engine.names)


@pytest.mark.parametrize("method", MADE)
def test_all_weights_zero_is_the_base(engine, method):
    np.testing.assert_array_equal(logits(engine, method, {"one": 0, "two": 0}), logits(engine, weights={}))


def test_exact_concatenation_and_svd_at_full_rank_are_the_sum(engine):
    for method, parameters in (("cat", {}), ("svd", {"rank": 8})):
        np.testing.assert_allclose(logits(engine, method, **parameters), logits(engine), atol=1e-4)
    assert np.abs(logits(engine, "svd", rank=1) - logits(engine)).max() > 1e-3


def test_order_of_the_names_does_not_matter_to_the_exact_ones(engine):
    backwards = dict(reversed(WEIGHTS.items()))
    np.testing.assert_allclose(logits(engine, "cat", backwards), logits(engine, "cat"), atol=1e-5)


@pytest.mark.parametrize("method", [name for name in MADE if METHODS[name].merge])
def test_a_merge_is_the_merged_adapter_loaded_as_one_more(engine, made, method):
    adapters = [engine.snapshot.bank.adapter(name) for name in WEIGHTS]
    whole = {}
    for place, path in enumerate(dict.fromkeys(path for adapter in adapters for path in adapter)):
        here = [{path: adapter[path]} if path in adapter else {} for adapter in adapters]
        whole |= merge(MERGES[method], here, [*WEIGHTS.values()], Options(seed=place)).adapter
    other = tiny.engine(*made)
    other._pool.add(engine.snapshot.adapters[0].__class__("merged", "memory"), whole)
    expected = other.next_token_logits(PROMPT, Composition({"merged": 0.7}))
    np.testing.assert_allclose(logits(engine, method, strength=0.7), expected, atol=1e-4)
    assert np.abs(logits(engine, method) - logits(engine, weights={})).max() > 1e-3


def test_pico_is_the_sum_of_the_calibrated_adapters_and_shows_them_as_they_are_called(engine, made):
    calibrated = calibrate([engine.snapshot.bank.adapter(name) for name in WEIGHTS])
    other = tiny.engine(made[0], {})
    for name, adapter in zip(WEIGHTS, calibrated, strict=True):
        other._pool.add(engine.snapshot.adapters[0].__class__(name, "memory"), adapter)
    np.testing.assert_allclose(logits(engine, "pico"), logits(other), atol=1e-4)
    assert np.abs(logits(engine, "pico") - logits(engine)).max() > 1e-4
    step = next(engine.generate(PROMPT, Composition(WEIGHTS, "pico"), GREEDY))
    expected = next(other.generate(PROMPT, Composition(WEIGHTS), GREEDY))
    assert lane_names(Composition(WEIGHTS, "pico"), engine.names) == engine.names
    np.testing.assert_allclose(step.contribution[:, :2], expected.contribution, atol=1e-4)
    assert not step.contribution[:, 2].any()


def test_pico_before_a_method_is_that_method_of_the_calibrated_adapters(engine, made):
    calibrated = calibrate([engine.snapshot.bank.adapter(name) for name in WEIGHTS])
    other = tiny.engine(made[0], {})
    for name, adapter in zip(WEIGHTS, calibrated, strict=True):
        other._pool.add(engine.snapshot.adapters[0].__class__(name, "memory"), adapter)
    for method in ("average", "static", "balanced", "kl"):
        np.testing.assert_allclose(logits(engine, f"pico-{method}"), logits(other, method), atol=1e-3)
    # The prompt's fusion over the adapters as they are is not the one that is meant.
    known = engine.fusion(PROMPT)
    row = engine.row(0, PROMPT, Composition(WEIGHTS, "pico-kl"), GREEDY, known)
    again = engine.row(0, PROMPT, Composition(WEIGHTS, "pico-kl"), GREEDY)
    np.testing.assert_allclose(row.mixture.gates, again.mixture.gates, atol=1e-5)


def test_np_lora_keeps_the_adapter_with_the_greatest_weight(engine, made):
    names = [*WEIGHTS]
    adapters = [engine.snapshot.bank.adapter(name) for name in names]
    seen = []
    for kept, weights in ((0, (1.0, 0.5)), (1, (0.5, -1.0)), (0, (1.0, 1.0))):
        projected = CALIBRATIONS["np-lora"].rule(adapters, kept, Options(projection=3.0))
        other = tiny.engine(made[0], {})
        for name, adapter in zip(names, projected, strict=True):
            other._pool.add(engine.snapshot.adapters[0].__class__(name, "memory"), adapter)
        asked = dict(zip(names, weights, strict=True))
        got = logits(engine, "np-lora", asked, projection=3.0)
        np.testing.assert_allclose(got, logits(other, weights=asked), atol=1e-4)
        assert np.abs(got - logits(engine, weights=asked)).max() > 1e-4
        seen.append(engine.resolve(Composition(asked, "np-lora", projection=3.0)).leases)
    # What is made depends on which adapter is kept, and not on the weights beside that.
    assert [lease.name for lease in seen[0]] == [lease.name for lease in seen[2]]
    assert [lease.name for lease in seen[0]] != [lease.name for lease in seen[1]]
    summed = logits(engine, "np-lora", projection=0)
    np.testing.assert_allclose(summed, logits(engine), atol=1e-5)


@pytest.mark.parametrize("method", ["svd", "ties", "core"])
def test_what_a_merge_kept_is_over_all_sites(engine, method):
    adapters = [engine.snapshot.bank.adapter(name) for name in WEIGHTS]
    whole = merge(MERGES[method], adapters, [*WEIGHTS.values()], Options(rank=1)).notes
    assert engine.resolve(Composition(WEIGHTS, method, rank=1)).notes["kept"] == pytest.approx(whole["kept"])


def test_a_trace_keeps_how_its_fusion_was_computed(engine):
    composition = Composition(WEIGHTS, "kl", tokens="all", norm=False)
    fusion = engine.fusion(PROMPT, composition=composition)
    steps = list(engine.generate(PROMPT, composition, GREEDY, fusion=fusion))
    kept = engine.trace(PROMPT, composition, GREEDY, steps, fusion).fusion
    assert (kept.norm, kept.tokens, kept.calibrated) == (False, "all", False)
    np.testing.assert_allclose(kept.alpha[:, :2].sum(axis=1), 1, rtol=1e-5)
    assert not kept.alpha[:, 2].any()  # it has no weight


def test_a_merge_is_one_more_lane_after_the_adapters(engine):
    composition = Composition(WEIGHTS, "svd")
    steps = list(engine.generate(PROMPT, composition, GREEDY))
    trace = engine.trace(PROMPT, composition, GREEDY, steps)
    assert trace.adapters == (*engine.names, "svd")
    assert trace.contribution.shape == (len(steps), engine.model.layers, 4)
    assert not trace.contribution[..., :3].any() and trace.contribution[..., 3].all()
    assert 0 < engine.resolve(composition).notes["kept"] <= 1


def test_a_slot_is_used_again_when_its_lease_ends(engine):
    for weight in (1.0, 0.9, 0.8):
        logits(engine, "cat", {"one": weight, "two": 1})
        gc.collect()
    assert len(engine.snapshot.bank.names) == len(engine.names) + 1
    logits(engine, "svd", rank=1)
    assert len(engine.snapshot.bank.names) == len(engine.names) + 1


def test_what_was_made_last_is_not_made_again(engine, monkeypatch):
    one = logits(engine, "cat")
    monkeypatch.setattr("composer.engine.resolve.materialize", lambda *_: pytest.fail("made again"))
    np.testing.assert_array_equal(logits(engine, "cat"), one)


def test_a_text_under_way_keeps_its_adapter_while_others_come_and_go(engine):
    composition = Composition(WEIGHTS, "linear")
    alone = [step.token for step in engine.generate(PROMPT, composition, GREEDY)]
    gc.collect()
    steps = engine.generate(PROMPT, composition, GREEDY)
    seen = [next(steps).token]
    for weight in (0.3, -0.2):
        logits(engine, "cat", {"one": weight, "two": 1})
        seen.append(next(steps).token)
    assert seen + [step.token for step in steps] == alone


def test_a_full_pool_raises_a_sentence_and_changes_nothing(engine):
    full = MAX_POOL_RANK // RANK_ALIGNMENT  # ranks of the toys are below a step
    held = [engine.resolve(Composition({"one": 1, "two": 0.1 * place}, "linear")) for place in range(1, full)]
    names = engine.snapshot.bank.names
    with pytest.raises(ComposerError, match="Try again"):
        engine.resolve(Composition(WEIGHTS, "pico"))  # one place is left, and it takes two
    assert engine.snapshot.bank.names == names
    alone = logits(engine, "linear", {"one": 1, "two": 0.1})
    del held
    gc.collect()
    assert engine.resolve(Composition(WEIGHTS, "pico")).leases
    np.testing.assert_allclose(logits(engine, "linear", {"one": 1, "two": 0.1}), alone, atol=1e-5)


def test_a_slot_grows_and_an_empty_pool_makes_no_request_wait(engine, monkeypatch):
    monkeypatch.setattr("composer.engine.adapter_pool.MAX_POOL_RANK", 3 * RANK_ALIGNMENT)
    small = [logits(engine, "linear", {"one": 1, "two": weight}) for weight in (1, 0.5)]
    held = engine.resolve(Composition({"one": 1, "two": 1}, "linear"))
    gc.collect()
    site = next(iter(engine.snapshot.bank.sites.values()))
    assert (
        int((site.adapter_index >= len(engine.names)).sum()) == RANK_ALIGNMENT
    )  # one place, used for all three
    big = Composition({"one": 1, "two": 1, "three": 1}, "cat")
    monkeypatch.setattr("composer.engine.adapter_pool.MAX_POOL_RANK", 2 * RANK_ALIGNMENT)
    with pytest.raises(ComposerError, match="Try again"):
        engine.resolve(big)
    monkeypatch.setattr("composer.engine.adapter_pool.MAX_POOL_RANK", 3 * RANK_ALIGNMENT)
    np.testing.assert_allclose(
        logits(engine, "cat", big.weights), logits(engine, "sum", big.weights), atol=1e-4
    )
    np.testing.assert_allclose(logits(engine, "linear", {"one": 1, "two": 1}), small[0], atol=1e-5)
    del held
    gc.collect()
    monkeypatch.setattr("composer.engine.adapter_pool.MAX_POOL_RANK", 1)
    many = engine.resolve(Composition({"one": 1, "two": 1, "three": 1}, "pico"))
    assert len(many.leases) == 3  # more than the room, but nobody else is there
    monkeypatch.undo()
    np.testing.assert_allclose(logits(engine, "linear", {"one": 1, "two": 0.5}), small[1], atol=1e-5)


def test_an_adapter_added_later_does_not_move_what_was_made(engine, made):
    held = engine.resolve(Composition(WEIGHTS, "cat"))
    before = logits(engine, "cat")
    assert engine.add_adapter(str(made[1]["three"]), name="late").ok
    assert engine.names == ("one", "two", "three", "late")
    np.testing.assert_allclose(logits(engine, "cat"), before, atol=1e-5)
    np.testing.assert_allclose(
        logits(engine, weights={"late": 1}), logits(engine, weights={"three": 1}), atol=1e-5
    )
    assert engine.fusion(PROMPT).kl.shape == (engine.model.layers, 4)
    assert held.leases


def test_merges_and_sums_decode_in_one_batch_as_they_do_alone(engine):
    compositions = [Composition(WEIGHTS, method) for method in ("svd", "sum", "pico", "kl", "ties")]
    rows = [(PROMPT, composition, GREEDY) for composition in compositions]
    together: dict[int, list[int]] = {}
    for step in engine.generate_rows(rows):
        together.setdefault(step.row, []).append(step.token)
    for place, composition in enumerate(compositions):
        alone = [step.token for step in engine.generate(PROMPT, composition, GREEDY)]
        assert together[place] == alone


def test_the_scheduler_makes_what_is_asked_for(engine):
    scheduler = Scheduler(engine, slots=2)
    try:
        composition = Composition(WEIGHTS, "ties")
        tokens = [step.token for step in scheduler.generate(PROMPT, composition, GREEDY)]
    finally:
        scheduler.close()
    assert tokens == [step.token for step in engine.generate(PROMPT, composition, GREEDY)]


def test_unlike_ranks_are_a_sentence_where_factors_are_added(tmp_path):
    engine = tiny.engine("llama", tiny.three_unlike(tmp_path, "llama"))
    with pytest.raises(ComposerError, match="equal rank"):
        engine.next_token_logits(PROMPT, Composition({"plain": 1, "rslora": 1}, "linear"))
    assert engine.snapshot.bank.names == engine.names


@pytest.mark.parametrize("bad", [{"rank": 0}, {"density": 0}, {"core": 2}, {"omega": float("nan")}])
def test_a_dial_out_of_range_is_a_sentence(bad):
    with pytest.raises(ComposerError):
        Composition(**bad)

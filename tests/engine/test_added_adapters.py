"""Adapters that come and go: what is written meanwhile, the budgets, and whoever has them."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.added_adapters import AddedAdapters
from tests.tools import tiny

SHORT = Sampling(max_new_tokens=6, seed=3)
ROOMY = 1e9


@pytest.fixture
def engine(tmp_path):
    made = tiny.engine("llama", {"plain": tiny.adapter(tmp_path / "plain", "llama", 1, r=4)})
    made.end_tokens = frozenset()
    return made


@pytest.fixture
def folder(tmp_path):
    """folder(name, seed, **config) -> an adapter's folder."""
    return lambda name, seed=7, **config: tiny.adapter(tmp_path / name, "llama", seed, **{"r": 4, **config})


def tokens(engine, weights, method="sum", **more):
    return [step.token for step in engine.generate("Now", Composition(weights, method, **more), SHORT)]


def bank_bytes(engine):
    sites = engine.snapshot.bank.sites.values()
    return sum(site.A.nbytes + site.B.nbytes for site in sites)


def test_an_added_adapter_writes_what_it_writes_alone(engine, folder, tmp_path):
    added = AddedAdapters(engine, ROOMY, ROOMY)
    report, own = added.add(str(folder("mine")))
    assert report.ok and own.name == "mine" and own.name in engine.names
    alone = tiny.engine("llama", {"mine": tmp_path / "mine"})
    alone.end_tokens = frozenset()
    assert tokens(engine, {"mine": 1}) == tokens(alone, {"mine": 1})


def test_what_nobody_has_leaves_and_its_column_is_used_again(engine, folder):
    before, bytes_before = tokens(engine, {"plain": 1}), bank_bytes(engine)
    added = AddedAdapters(engine, ROOMY, ROOMY)
    for seed in range(50):
        _, own = added.add(str(folder(f"mine-{seed}", seed)))
        assert tokens(engine, {own.name: 1, "plain": 0.5})
        added.release(own)
        assert engine.names == ("plain",) and added.bytes == 0
    assert tokens(engine, {"plain": 1}) == before
    assert len(engine.snapshot.bank.names) == 2
    assert bank_bytes(engine) <= 4 * bytes_before  # one slot, of a rank that is a multiple of 8


@pytest.mark.parametrize("method", ["sum", "kl", "linear", "ties", "pico", "arrow"])
def test_another_adapter_of_the_name_is_not_taken_for_the_one_that_left(engine, folder, tmp_path, method):
    """Merged adapters are kept by the names of those they are made of."""
    texts = []
    for seed in (5, 6):
        engine.add_adapter(str(folder(f"x{seed}", seed)), name="x", removable=True)
        texts.append(engine.next_token_logits("Now", Composition({"x": 1, "plain": 1}, method)))
        engine.remove_adapter("x")
    fresh = tiny.engine("llama", {"plain": tmp_path / "plain", "x": tmp_path / "x6"})
    expected = fresh.next_token_logits("Now", Composition({"x": 1, "plain": 1}, method))
    assert np.abs(texts[0] - texts[1]).max() > 1e-2
    np.testing.assert_allclose(texts[1], expected, atol=2e-4)


def test_a_text_under_way_keeps_what_is_removed(engine, folder):
    engine.add_adapter(str(folder("mine")), removable=True)
    whole = tokens(engine, {"mine": 1})
    steps = engine.generate("Now", Composition({"mine": 1}), SHORT)
    first = next(steps)
    engine.remove_adapter("mine")
    engine.add_adapter(str(folder("other", 9)), removable=True)
    assert [first.token, *(step.token for step in steps)] == whole
    with pytest.raises(ComposerError, match="no adapter called 'mine'"):
        engine.resolve(Composition({"mine": 1}))


def test_columns_of_texts_that_ended_are_free(engine, folder):
    for seed in range(4):
        engine.add_adapter(str(folder(f"m{seed}", seed)), name="m", removable=True)
        tokens(engine, {"m": 1, "plain": 1}, "linear")
        engine.remove_adapter("m")
        gc.collect()
    assert len(engine.snapshot.bank.names) == 3  # plain, one slot for m, one for the merged adapter


def test_the_least_recently_used_makes_room_and_comes_back(engine, folder):
    added = AddedAdapters(engine, ROOMY, ROOMY)
    (_, one), (_, two) = added.add(str(folder("one", 1))), added.add(str(folder("two", 2)))
    expected = tokens(engine, {"one": 1})
    added._memory = 2 * one.memory
    added.use([one])
    _, three = added.add(str(folder("three", 3)))
    assert set(engine.names) == {"plain", "one", "three"} and added.bytes <= 2 * one.memory
    added.use([two, one])
    assert set(engine.names) == {"plain", "one", "two"}
    assert tokens(engine, {"one": 1}) == expected
    with pytest.raises(ComposerError, match="use fewer"):
        added.use([one, two, three])
    assert three.label == "three"


def test_two_owners_share_one_copy(engine, folder):
    added = AddedAdapters(engine, ROOMY, ROOMY)
    place = str(folder("mine"))
    (_, one), (_, two) = added.add(place), added.add(place)
    assert one == two and engine.names == ("plain", "mine")
    added.release(one)
    assert "mine" in engine.names
    added.release(two)
    assert engine.names == ("plain",)


def test_one_that_is_too_large_is_refused_with_the_numbers(engine, folder):
    report, own = AddedAdapters(engine, 100, ROOMY).add(str(folder("mine")))
    assert own is None and not report.ok and "MB of memory" in report.reasons[0]
    assert engine.names == ("plain",) and engine.reports[-1].name == "plain"


def test_those_who_did_not_bring_it_do_not_see_it(engine, folder):
    engine.add_adapter(str(folder("secret")), removable=True)
    with pytest.raises(ComposerError) as told:
        engine.resolve(Composition({"secre": 1}), among=("plain",))
    assert str(told.value).count("secre") == 1, "the message names another visitor's adapter"
    resolved = engine.resolve(Composition({"plain": 1}), among=("plain",))
    assert resolved.lanes == ("plain",) and not resolved.held
    (step, *_) = engine.generate("Now", resolved, SHORT)
    assert step.contribution.shape[1] == 1


def test_an_adapter_of_the_catalog_cannot_be_removed(engine):
    with pytest.raises(ComposerError, match="plain cannot be removed"):
        engine.remove_adapter("plain")


def test_other_sites_than_the_bank_has(tmp_path):
    """A slot for an adapter on sites that no other adapter has."""
    engine = tiny.engine("llama", {})
    engine.end_tokens = frozenset()
    bare = tokens(engine, {})
    for name in ("q_proj", "down_proj"):
        place = tiny.adapter(tmp_path / name, "llama", 3, r=3, target_modules=[name])
        assert engine.add_adapter(str(place), name=name, removable=True).ok
        expected = tiny.engine("llama", {name: place})
        np.testing.assert_allclose(
            engine.next_token_logits("Now", Composition({name: 1})),
            expected.next_token_logits("Now", Composition({name: 1})),
            atol=1e-5,
        )
        engine.remove_adapter(name)
        assert tokens(engine, {}) == bare

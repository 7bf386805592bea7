"""A base whose parts are on several devices writes what it writes on one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload

from composer.adapters.bank import AdapterBank
from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.composition import Composition, Sampling
from composer.engine.engine import Engine
from composer.engine.scheduler import Scheduler
from composer.model.gated_model import GatedModel, gates_tensor
from composer.model.lens import Lens
from composer.model.loading import load_base
from composer.model.placement import device_map, device_of, in_words, is_spread
from composer.model.runtime.runner import TransformersRunner
from composer.model.weight_norms import weight_norms
from tests.tools import tiny

FAMILIES = ("llama", "gemma3")
# Adapters are on layers of both parts: `three_unlike` has all of them.
MIXES = [
    Composition({"plain": 1.0, "rslora": 0.5, "patterned": -0.5}),
    Composition({"plain": 1.0, "rslora": 1.0}, method="kl"),
    Composition({"plain": 1.0, "rslora": 1.0}, method="logits"),
    Composition({"plain": 1.0, "patterned": 1.0}, method="dynamic"),
    Composition(),
]
PROMPTS = ([5, 9, 77], [1, 2, 3, 4, 200, 30])
GREEDY = Sampling(max_new_tokens=12, temperature=0)


def parts(first: str | int, second: str | int) -> dict[str, str | int]:
    """The middle layer and the unembedding apart from the rest."""
    ends = ("model.embed_tokens", "model.rotary_emb", "model.norm", "model.layers.0", "model.layers.2")
    return dict.fromkeys(ends, first) | {"model.layers.1": second, "lm_head": second}


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory) -> tuple[BaseSpec, Mapping[str, Path]]:
    """A base with an unembedding of its own, and adapters for it."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny.FAMILIES[request.param]()
    config.tie_word_embeddings = False
    tiny.random(config, norms=0.2).save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    spec = BaseSpec(request.param, "tiny/base", folder=str(folder / "base"))
    return spec, tiny.three_unlike(folder, request.param)


def engine_over(saved: tuple[BaseSpec, Mapping[str, Path]], where: Mapping[str, str | int] | None) -> Engine:
    spec, adapters = saved
    base = load_base(spec, "cpu", parts=where)
    engine = Engine(Catalog(folder=".", default=spec.name, bases={spec.name: spec}), base)
    for name, folder in adapters.items():
        assert engine.add_adapter(str(folder), name=name).ok
    return engine


@pytest.fixture(scope="module")
def whole(saved) -> Engine:
    return engine_over(saved, None)


@pytest.fixture(scope="module")
def spread(saved) -> Engine:
    return engine_over(saved, parts("cpu", "disk"))


def passes(engine: Engine) -> tuple[torch.Tensor, ...]:
    """Logits, readings, hidden states and keys of two prompts under gates, through transformers' modules."""
    runner, layout = TransformersRunner(engine.model), engine.snapshot.layout
    gates = np.random.default_rng(0).normal(size=(2, layout.layers, len(layout.bank.names)))
    read = runner.read(layout, gates_tensor(gates.astype(np.float32), engine.model.device), PROMPTS)
    telemetry = read.telemetry
    return read.logits, telemetry.coded, telemetry.energy, *read.hidden, *(p.cpu() for p in read.past)


def test_every_number_of_a_pass_is_the_same(whole, spread):
    """To the bit, but for the logits: the unembedding comes out of the file at each call, and its product is
    rounded a little differently from there."""
    assert is_spread(spread.base.model) and not is_spread(whole.base.model)
    assert any(each.device.type == "meta" for each in spread.base.model.model.layers[1].parameters())
    (logits, *mine), (expected, *reference) = passes(spread), passes(whole)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=2e-6)
    assert len(mine) == 2 + 3 + 3
    for one, other in zip(mine, reference, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: f"{mix.method}-{len(mix.weights)}")
def test_greedy_texts_contributions_and_fusion_are_the_same(mix, whole, spread):
    """The whole base has a faster pass, so numbers are equal up to rounding."""
    one, other = (list(engine.generate("The lake", mix, GREEDY)) for engine in (whole, spread))
    assert [step.token for step in other] == [step.token for step in one] and len(one) > 3
    for mine, reference in zip(other, one, strict=True):
        np.testing.assert_allclose(mine.contribution, reference.contribution, rtol=1e-3, atol=1e-5)
    logits = [engine.next_token_logits("The lake", mix) for engine in (spread, whole)]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)


def test_kl_weights_and_their_lens_are_the_same(whole, spread):
    names = ("plain", "rslora", "patterned")
    mine, reference = (engine.fusion("The lake is", dict.fromkeys(names, 1.0)) for engine in (spread, whole))
    np.testing.assert_allclose(mine.kl, reference.kl, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(mine.alpha, reference.alpha, rtol=1e-3, atol=1e-5)
    hidden = torch.randn(3, whole.base.model.config.hidden_size)
    for norm in (True, False):
        one, other = (Lens(engine.base.model).log_probs(hidden, norm) for engine in (whole, spread))
        torch.testing.assert_close(other, one)


def test_rows_of_a_shared_batch_are_the_same(whole, spread, monkeypatch):
    texts = []
    for engine in (whole, spread):
        monkeypatch.setattr(engine, "end_tokens", frozenset())
        scheduler = Scheduler(engine, slots=4)
        handles = [scheduler.submit("It was", mix, GREEDY) for mix in MIXES[:2]]
        steps = [[each for each in handle.events() if hasattr(each, "token")] for handle in handles]
        texts.append([own[-1].text for own in steps])
        scheduler.close()
    assert texts[0] == texts[1]


def test_norms_of_weights_that_are_kept_elsewhere_are_theirs(whole, spread):
    paths = list(whole.model.sites)
    one, other = (weight_norms(engine.model, paths) for engine in (whole, spread))
    assert one == other and all(other.values())


def test_factors_are_where_their_site_computes(spread):
    model, sites = spread.model, spread.snapshot.layout.bank.sites
    assert set(model.devices) == set(model.sites)
    for path, site in sites.items():
        assert site.A.device == site.B.device == site.adapter_index.device == model.devices[path]


def test_a_base_offloaded_as_a_whole_computes_where_accelerate_says(saved, whole):
    model = load_base(saved[0], "cpu").model
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(each.device.type == "meta" for each in model.parameters())
    gated = GatedModel(model)
    assert gated.spread and gated.device.type == "cpu" and set(map(str, gated.devices.values())) == {"cpu"}
    layout = gated.layout(AdapterBank())
    gates = torch.zeros(2, gated.layers, 0)
    mine = TransformersRunner(gated).read(layout, gates, PROMPTS).logits
    assert torch.equal(mine, TransformersRunner(whole.model).read(layout, gates, PROMPTS).logits)


def test_the_log_says_where_the_parts_are_and_why_it_is_slow(saved, caplog):
    with caplog.at_level(logging.INFO):
        engine = engine_over(saved, parts("cpu", "disk"))
    assert isinstance(engine.runner, TransformersRunner)
    assert "its parts are spread: 5 on cpu, 2 on the disk. Parts that are not on a card" in caplog.text
    assert "which is slower: its parts are on several devices (5 on cpu, 2 on the disk)" in caplog.text


def test_a_whole_base_keeps_its_faster_pass_and_its_factors_have_one_device(whole):
    assert not isinstance(whole.runner, TransformersRunner) and whole.model.devices == {}


def test_only_cards_are_spread_over():
    assert device_map("auto", "cuda") == "auto"
    assert device_map("auto", "cpu") == {"": "cpu"} and device_map("auto", "cuda:1") == {"": "cuda:1"}
    assert device_map("single", "cuda") == {"": "cuda"}


def test_words_tell_cards_from_what_is_kept_elsewhere():
    model = torch.nn.Linear(1, 1)
    model.hf_device_map = {"a": 0, "b": 0, "c": 1, "d": "cpu", "e": "disk"}
    assert in_words(model) == "2 on cuda:0, 1 on cuda:1, 1 in the CPU's memory, 1 on the disk"
    assert device_of(model).type == "cpu" and not is_spread(model)


CARDS = {"two cards": (0, 1), "a card and the CPU's memory": (0, "cpu"), "the CPU's memory first": ("cpu", 0)}


@pytest.mark.parametrize("cards", CARDS)
def test_on_cards_the_logits_and_texts_are_those_of_the_cpu(cards, saved, whole):
    first, second = CARDS[cards]
    if torch.cuda.device_count() < 1 + (cards == "two cards"):
        pytest.skip("as many cards are not here")
    engine = engine_over(saved, parts(first, second))
    sites = engine.snapshot.layout.bank.sites
    assert all(site.A.device == engine.model.devices[path] for path, site in sites.items())
    assert len({site.A.device for site in sites.values()}) == 1 + (cards == "two cards")
    for mine, reference in zip(passes(engine), passes(whole), strict=True):
        torch.testing.assert_close(mine.cpu(), reference, rtol=1e-3, atol=1e-3)
    for mix in MIXES:
        one, other = (list(each.generate("The lake", mix, GREEDY)) for each in (whole, engine))
        assert [step.token for step in other] == [step.token for step in one]

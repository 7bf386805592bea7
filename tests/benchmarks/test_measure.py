"""Every measurement really run at toy size: what the arms compute, and that their figures hold together."""

from __future__ import annotations

import getpass
import json
import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import contention, family, int8, nf4, peft_baseline, processes, roofline, start
from benchmarks.fixture import BenchFixture, clone_modules, without_eos
from benchmarks.fusion import fusion
from benchmarks.plan import FULL, TEXT, SectionLeftOut, expect, greedy, prompt_of
from benchmarks.report import as_markdown
from benchmarks.run import Places, run
from benchmarks.single_stream import COUNTS
from composer.adapters.catalog import load_catalog
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.model.runtime.llama.onednn_linear import pack

MEASURED = ("single", "fusion", "users", "preview", "page", "start", "contention", "loaded", "nf4", "family")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def result(toy_catalog, toy) -> dict:
    """A whole run, but for the GPU's part."""
    places = Places(family=toy_catalog.parent / "base")
    return run(toy_catalog, None, MEASURED, toy, places) | {"command": "python -m composer bench"}


def sound(taken: dict, count: int) -> bool:
    return (
        0 < taken["p10"] <= taken["median"] <= taken["p90"] and taken["cpu"] > 0 and taken["count"] == count
    )


# --- the stand -----------------------------------------------------------------------------------


def test_a_clone_shares_the_weights_and_nothing_else(fixture):
    one, other = clone_modules(fixture.base), clone_modules(fixture.base)
    pairs = list(zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert pairs and all(a is b for a, b in pairs)
    assert {id(module) for module in one.model.modules()}.isdisjoint(map(id, other.model.modules()))


def test_every_random_adapter_fits_and_matters(fixture, toy):
    engine = fixture.ours(8)
    prompt = prompt_of(fixture.count_tokens, toy.prompt)
    base = engine.next_token_logits(prompt)
    for name in engine.names:
        assert (
            np.abs(engine.next_token_logits(prompt, Composition(weights={name: 1})) - base).max()
            > 100 * TOLERANCE
        )


def test_no_run_ends_before_its_time(fixture, toy):
    """The base's own next token is made its end token: without `endless` it would stop at once."""
    prompt = prompt_of(fixture.count_tokens, toy.prompt)
    (first, *_) = fixture.ours(0).generate(prompt, Composition(), greedy(1))
    base = clone_modules(fixture.base)
    base.model.generation_config.eos_token_id = first.token
    ids = torch.tensor([fixture.encode(prompt)])
    early = base.model.generate(ids, do_sample=False, max_new_tokens=3)
    assert early.shape[1] == ids.shape[1] + 1
    without_eos(base)
    assert base.model.generate(ids, do_sample=False, max_new_tokens=3).shape[1] == ids.shape[1] + 3
    with pytest.raises(ComposerError, match="drew 1 tokens instead of 3"):
        expect(1, 3)


@pytest.mark.parametrize("first", [0, 7])
def test_prompts_have_the_wanted_number_of_tokens(fixture, first):
    prompt = prompt_of(fixture.count_tokens, 20, first)
    assert fixture.count_tokens(prompt) in (19, 20)
    assert prompt.startswith(TEXT.split()[first])


# --- what the arms compute -----------------------------------------------------------------------


def test_ours_peft_and_the_merge_compute_the_same(fixture, toy):
    engine, names = fixture.ours(3), [folder.name for folder in fixture.adapters[:3]]
    prompt = prompt_of(fixture.count_tokens, toy.prompt)
    ours = engine.next_token_logits(prompt, Composition(weights=dict.fromkeys(names, 1.0)))
    assert np.abs(ours - engine.next_token_logits(prompt)).max() > 100 * TOLERANCE

    model, ids = (
        peft_baseline.peft_model(fixture.reference_base, fixture.adapters),
        torch.tensor([fixture.encode(prompt)]),
    )
    cat = peft_baseline.concatenate(model, names, "merged")
    for active in (names, [cat]):
        peft_baseline.activate(model, active)
        with torch.no_grad():
            np.testing.assert_allclose(model(input_ids=ids).logits[0, -1].numpy(), ours, atol=TOLERANCE)


def test_separate_models_are_the_base_and_each_adapter_alone(fixture, toy):
    models, engine = peft_baseline.separate(fixture.reference_base, fixture.adapters[:2]), fixture.ours(8)
    prompt = prompt_of(fixture.count_tokens, toy.prompt)
    ids = torch.tensor([fixture.encode(prompt)])
    for model, weights in zip(models, ({}, {"random-1": 1}, {"random-2": 1}), strict=True):
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1].numpy()
        ours = engine.next_token_logits(prompt, Composition(weights))
        np.testing.assert_allclose(logits, ours, atol=TOLERANCE)


def test_every_form_of_the_wall_is_the_layer_s_product(fixture, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    layers = roofline.linears(fixture.reference_base)
    assert len(layers) == 3 * 7 + 1
    assert roofline.weight_bytes(fixture.reference_base) == sum(
        4 * layer.in_features * layer.out_features for layer in layers
    )
    for layer in layers:
        x = torch.randn(1, layer.in_features)
        forms = roofline._forms(layer, x)
        assert set(forms) == {"rows", "blocks"} | ({"packed"} if pack(layer.weight) is not None else set())
        expected = F.linear(x, layer.weight)[0]
        assert all(torch.allclose(form().flatten(), expected, atol=1e-5) for form in forms.values())
    shapes = {f"{layer.out_features}x{layer.in_features}" for layer in layers}
    assert set(roofline.bare_products(fixture.reference_base).forms) == shapes


def test_forced_logits_are_those_of_the_text(fixture):
    """Decoded token by token they must be what one pass over the text so far gives."""
    logits, engine = int8._forced(fixture, 3, "same"), fixture.ours(3)
    composition = Composition(weights=dict.fromkeys(engine.names, 1.0))
    assert len(logits) == int8.POSITIONS
    for place in (0, 40, int8.POSITIONS - 1):
        whole = engine.next_token_logits(TEXT[: place + 2], composition)
        np.testing.assert_allclose(logits[place].numpy(), whole, atol=10 * TOLERANCE)


def test_the_change_by_int8_is_measured_against_the_base_dtype():
    same = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert int8._compared(same, same) == {"max": 0, "mean": 0, "kl": 0, "agree": 1, "positions": 2}
    moved = int8._compared(same, same + torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    assert (moved["max"], moved["mean"], moved["agree"]) == (2, 0.5, 0.5)
    p = torch.softmax(same[0], 0)
    q = torch.softmax(torch.tensor([2.0, 1.0]), 0)
    assert moved["kl"] == pytest.approx(float((p * (p / q).log()).sum()) / 2, abs=1e-6)


# --- figures -------------------------------------------------------------------------------------


def test_one_stream(result, toy):
    single = result["single"]
    ours = {f"ours {kind}{n}" for n in COUNTS for kind in ("", "float32 ")} | {
        "ours eager 0",
        "ours eager 3",
        "ours int8 0",
        "ours int8 3",
    }
    reference = {f"peft {n}" for n in COUNTS} | {"peft cat 3", "passes 4", "wall"}
    assert set(single["arms"]) == ours | reference
    assert all(sound(taken, toy.rounds) for taken in single["arms"].values())
    assert single["compiled"]
    for change in single["int8"].values():
        assert 0 < change["mean"] <= change["max"] and change["kl"] >= 0 and 0 <= change["agree"] <= 1
    profile = single["profile"]
    assert any(name.startswith("aten::") for name in profile["operators"])
    assert 0 <= profile["rest"] < profile["total"] and profile["others"] >= 0


def test_each_fusion_reads_a_prompt_of_its_own(fixture, toy, monkeypatch):
    engine, read = fixture.ours(2), []
    own = engine._analyzer._divergence
    monkeypatch.setattr(engine._analyzer, "_divergence", lambda *given: read.append(given[1]) or own(*given))
    arm = fusion(engine, fixture.count_tokens, toy.prompt)
    for _ in range(3):
        assert arm().seconds > 0
    assert len({tuple(ids) for ids in read}) == 3 and len({len(ids) for ids in read}) == 1


def test_fusion(result, toy):
    arms = result["fusion"]["arms"]
    assert set(arms) == {"rows 1", "rows 3", "fusion 2", "peft 3"}
    assert all(sound(taken, toy.rounds) for taken in arms.values())


def test_users(result, toy):
    counts, plain = result["users"]["counts"], result["users"]["float32"]
    assert set(counts) == set(plain) == {"1", "3"}
    for figures in (*counts.values(), *plain.values()):
        assert 0 < figures["each"] <= figures["total_p90"] * 1.001
        assert figures["total_p10"] <= figures["total"]
        assert 0 < figures["first_p50"] <= figures["first_p95"]
        assert (
            figures["bare"] > 0
            and figures["memory"] > 0
            and figures["cpu"] > 0
            and figures["count"] == toy.user_rounds
        )


def test_preview(result, toy):
    preview = result["preview"]
    assert 0 < preview["p50"] <= preview["p95"]
    assert (preview["prompt_tokens"], preview["count"]) == (toy.preview_prompt, toy.previews)


def test_page(result, toy):
    measured = result["page"]
    assert (measured["opens"], measured["moves"]) == (toy.page_opens, toy.page_moves)
    assert (
        0 < measured["open_p50"] <= measured["open_p95"] and 0 < measured["move_p50"] <= measured["move_p95"]
    )
    assert measured["tokens"] > 5 and 0 < measured["main_thread"] < 1
    assert 2e5 < measured["assets"] < 1e6, "the page's own files are to stay under 1 MB"


def test_start_up(result):
    measured = result["start"]
    assert sound(measured["first_token"], 1) and sound(measured["adapter_load"], 8)
    assert measured["memory"] > 1e8, "a process with torch in it"


def test_ways_of_waiting_are_measured_quiet_and_beside_busy_processes(result, toy):
    assert contention.ARMS.keys() == set(FULL.waits)
    measured = result["contention"]
    assert list(measured["loads"]) == [str(count) for count in sorted({0, 1, measured["cores"]})]
    for arms in measured["loads"].values():
        assert tuple(arms) == toy.waits
        assert all(sound(taken, 1) for taken in arms.values())


def test_a_worker_that_cannot_start_is_a_fault_and_no_figure(tmp_path):
    with (
        pytest.raises(ComposerError, match="ended early"),
        processes.Worker("benchmarks.decode_worker", tmp_path / "none.yaml", "same", env={}, first={}),
    ):
        raise AssertionError("it has nothing to decode with")


def test_a_start_that_fails_is_a_fault_and_no_figure(fixture, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ComposerError, match="--verbose"):
        start._start(fixture, tmp_path / "none.yaml", "Hello")


def test_loaded_adapters_that_are_not_used_are_measured_beside_those_that_are(result, toy):
    loaded = result["loaded"]
    assert set(loaded["arms"]) == {"loaded 3", "loaded 4"} and loaded["used"] == 3
    assert all(sound(taken, toy.rounds) for taken in loaded["arms"].values())


def test_a_base_in_4_bits_is_measured_beside_itself_in_full_and_peft(result, toy):
    arms = result["nf4"]["arms"]
    assert set(arms) == {"full 0", "nf4 0", "full 3", "nf4 3", "peft 3"}
    assert all(each["count"] == toy.rounds and each["median"] > 0 for each in arms.values())


def test_a_base_in_4_bits_already_has_nothing_to_compare(toy_catalog, tmp_path, toy):
    spec = replace(load_catalog(toy_catalog).base(), quantization="nf4")
    with pytest.raises(SectionLeftOut, match="full precision"):
        nf4.measure(BenchFixture(spec, tmp_path, device="cpu"), toy)


def test_a_base_of_another_family_is_measured_beside_peft(result, toy):
    measured = result["family"]
    assert set(measured["arms"]) == {f"{who} {count}" for who in ("ours", "peft") for count in (0, 1, 3)}
    assert all(sound(taken, toy.rounds) for taken in measured["arms"].values())
    assert (measured["model_type"], measured["layers"]) == ("llama", 3)


def test_without_a_folder_or_the_wheels_the_family_is_left_out(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(family, "is_here", lambda spec: False)
    with pytest.raises(SectionLeftOut, match="--family-folder"):
        family.measure(None, tmp_path, 8, toy)


def test_every_section_says_how_many_threads_it_had(result):
    assert {result[name]["threads"] for name in MEASURED} == {torch.get_num_threads()}


def test_a_section_that_cannot_be_measured_is_said_and_costs_no_other(toy_catalog, toy):
    made = run(toy_catalog, None, ("preview", "peers"), toy) | {"command": "x"}
    assert "preview" in made and "peers" not in made
    assert "The section peers needs" in made["left_out"]["peers"]
    assert made["left_out"]["peers"] in as_markdown({"cpu": made})


def test_the_whole_report_renders_and_names_no_place(result, toy_catalog):
    both = {"cpu": result, "cuda": result | {"device": "cuda"}}
    text = as_markdown(both) + json.dumps(both, allow_nan=False)
    for private in (str(toy_catalog.parent), str(Path.home()), platform.node(), getpass.getuser(), "/tmp"):
        assert len(private) < 4 or private not in text

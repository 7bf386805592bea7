"""Every measurement really run at toy size: what the arms compute, and that their figures hold together."""

from __future__ import annotations

import getpass
import json
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import contention, gpu, int8, peft_baseline, roofline, start
from benchmarks.fixture import BenchFixture, clone_modules, without_eos
from benchmarks.plan import FULL, TEXT, expect, greedy, prompt_of
from benchmarks.report import as_markdown
from benchmarks.run import run
from benchmarks.single_stream import COUNTS
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.model.runtime.llama.onednn_linear import pack

MEASURED = ("single", "fusion", "users", "preview", "page", "start", "contention")
TOLERANCE = 1e-5
SHAPE = gpu.Shape(1, 64, 96, 4, 2, 300)


@pytest.fixture(scope="module")
def result(toy_catalog, toy) -> dict:
    """A whole run, but for the GPU's part."""
    return run(toy_catalog, None, MEASURED, toy) | {"command": "python -m composer bench"}


@pytest.fixture(scope="module")
def shaped(toy, tmp_path_factory) -> dict:
    """The GPU's part on the CPU."""
    return gpu.measure(toy, tmp_path_factory.mktemp("gpu"), SHAPE, rank=4, device="cpu")


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

    model, ids = peft_baseline.peft_model(fixture), torch.tensor([fixture.encode(prompt)])
    cat = peft_baseline.concatenate(model, names, "merged")
    for active in (names, [cat]):
        peft_baseline.activate(model, active)
        with torch.no_grad():
            np.testing.assert_allclose(model(input_ids=ids).logits[0, -1].numpy(), ours, atol=TOLERANCE)


def test_separate_models_are_the_base_and_each_adapter_alone(fixture, toy):
    models, engine = peft_baseline.separate(fixture, 2), fixture.ours(8)
    prompt = prompt_of(fixture.count_tokens, toy.prompt)
    ids = torch.tensor([fixture.encode(prompt)])
    for model, weights in zip(models, ({}, {"random-1": 1}, {"random-2": 1}), strict=True):
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1].numpy()
        ours = engine.next_token_logits(prompt, Composition(weights))
        np.testing.assert_allclose(logits, ours, atol=TOLERANCE)


def test_every_form_of_the_wall_is_the_layer_s_product(fixture, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    layers = roofline.linears(fixture)
    assert len(layers) == 3 * 7 + 1
    assert roofline.weight_bytes(fixture) == sum(
        4 * layer.in_features * layer.out_features for layer in layers
    )
    for layer in layers:
        x = torch.randn(1, layer.in_features)
        forms = roofline._forms(layer, x)
        assert set(forms) == {"rows", "blocks"} | ({"packed"} if pack(layer.weight) is not None else set())
        expected = F.linear(x, layer.weight)[0]
        assert all(torch.allclose(form().flatten(), expected, atol=1e-5) for form in forms.values())
    shapes = {f"{layer.out_features}x{layer.in_features}" for layer in layers}
    assert set(roofline.bare_products(fixture).forms) == shapes


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
    ours = {f"ours {n}" for n in COUNTS} | {"ours eager 0", "ours eager 3", "ours int8 0", "ours int8 3"}
    reference = {f"peft {n}" for n in COUNTS} | {"peft cat 3", "passes 4", "wall"}
    assert set(single["arms"]) == ours | reference
    assert all(sound(taken, toy.rounds) for taken in single["arms"].values())
    assert single["compiled"]
    for change in single["int8"].values():
        assert 0 < change["mean"] <= change["max"] and change["kl"] >= 0 and 0 <= change["agree"] <= 1
    profile = single["profile"]
    assert any(name.startswith("aten::") for name in profile["operators"])
    assert 0 <= profile["rest"] < profile["total"] and profile["others"] >= 0


def test_fusion(result, toy):
    arms = result["fusion"]["arms"]
    assert set(arms) == {"rows 1", "rows 3", "fusion 2", "peft 3"}
    assert all(sound(taken, toy.rounds) for taken in arms.values())


def test_users(result, toy):
    counts = result["users"]["counts"]
    assert set(counts) == {"1", "3"}
    for figures in counts.values():
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
        contention.Worker(tmp_path / "none.yaml", contention.ARMS["default"]),
    ):
        raise AssertionError("it has nothing to decode with")


def test_a_start_that_fails_is_a_fault_and_no_figure(fixture, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ComposerError, match="--verbose"):
        start._start(fixture, tmp_path / "none.yaml", "Hello")


def test_the_gpu_s_script_runs_in_both_dtypes(shaped, toy):
    assert set(shaped["dtypes"]) == {"bf16", "nf4"}
    for sections in shaped["dtypes"].values():
        floor = sections["floor"]
        assert floor["seconds"] == floor["bytes"] / floor["bandwidth"]
        assert all(sound(taken, toy.rounds) for taken in sections["single"]["arms"].values())
        assert set(sections) == {"floor", "single", "fusion", "users"}
    bf16, nf4 = (shaped["dtypes"][name]["floor"]["bytes"] for name in ("bf16", "nf4"))
    decoder = SHAPE.num_hidden_layers * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert bf16 == 2 * (decoder + 300 * 64)
    assert 2 * 300 * 64 + decoder / 2 < nf4 < 2 * 300 * 64 + 0.6 * decoder


@pytest.mark.parametrize("broken", [("nf4",), ("none", "nf4")])
def test_a_dtype_that_does_not_load_does_not_cost_the_others_figures(
    broken, toy, tmp_path, monkeypatch, capsys
):
    def fixture(spec, *args, **options):
        if spec.quantization in broken:
            raise ComposerError("It could not be loaded.")
        return BenchFixture(spec, *args, **options)

    monkeypatch.setattr(gpu, "BenchFixture", fixture)
    monkeypatch.setattr(gpu, "MEASURES", {})
    if "none" in broken:
        with pytest.raises(ComposerError, match="could not be loaded"):
            gpu.measure(toy, tmp_path, SHAPE, rank=4, device="cpu")
    else:
        assert set(gpu.measure(toy, tmp_path, SHAPE, rank=4, device="cpu")["dtypes"]) == {"bf16"}
    assert "nf4 is left out: It could not be loaded." in capsys.readouterr().err


def test_the_whole_report_renders_and_names_no_place(result, shaped, toy_catalog):
    both = {"cpu": result, "cuda": result | {"device": "cuda", "gpu": shaped}}
    text = as_markdown(both) + json.dumps(both, allow_nan=False)
    for private in (str(toy_catalog.parent), str(Path.home()), platform.node(), getpass.getuser(), "/tmp"):
        assert len(private) < 4 or private not in text

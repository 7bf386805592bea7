"""A mix as one adapter: PEFT on the bare base gives the same logits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from composer import Composition
from composer.adapters.export import write_adapter
from composer.cli.main import main
from composer.core.catalog_types import Attribute
from composer.core.errors import ComposerError
from composer.engine.export import bake
from composer.methods import METHODS
from tests.tools import tiny

PROMPT = "It was a dark and stormy night"
WEIGHTS = {"plain": 1.0, "rslora": 0.5}
CURVES = {"plain": [0, 0.5, 1], "rslora": [1, 0]}
REFUSED = {
    "arrow": "for every token",
    "spectr": "for every token",
    "dynamic": "while it writes",
    "logits": "logits",
    "logits-contrast": "logits",
}
EXPORTED = [name for name in METHODS if name not in REFUSED]


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def engine(request, tmp_path_factory):
    folder, family = tmp_path_factory.mktemp(request.param), request.param
    first, _, third = tiny.NAMES[family]
    folders = {
        "plain": tiny.adapter(folder / "plain", family, 1, r=4, lora_alpha=8),
        "rslora": tiny.adapter(folder / "rslora", family, 2, r=4, lora_alpha=3, use_rslora=True),
        "other": tiny.adapter(folder / "other", family, 3, r=4, target_modules=[first, third]),
    }
    return tiny.engine(family, folders, (Attribute("group", "", ("plain", "other")),))


def logits_by_peft(engine, folder) -> np.ndarray:
    """From the bare base with the exported adapter, as anybody would load it."""
    loaded = PeftModel.from_pretrained(tiny.model(engine.base.spec.name), folder)
    ids = torch.tensor([engine.base.encode(PROMPT)])
    with torch.no_grad():
        return loaded(input_ids=ids).logits[0, -1].float().numpy()


@pytest.mark.parametrize("method", EXPORTED)
def test_peft_gives_the_same_logits(engine, method, tmp_path):
    if method == "logo" and engine.base.spec.name == "gpt_neox":
        pytest.skip("LoGo reads the query projection, which this family does not have apart")
    composition = Composition(WEIGHTS, method, strength=0.8, bands=(1, 0.5, 1.5), curves=CURVES)
    write_adapter(tmp_path, bake(engine, composition, PROMPT).adapter, engine.base.id)
    expected = engine.next_token_logits(PROMPT, composition)
    np.testing.assert_allclose(logits_by_peft(engine, tmp_path), expected, atol=1e-4)
    assert np.abs(expected - engine.next_token_logits(PROMPT)).max() > 1e-2


def test_one_rank_at_every_site_and_the_loss_is_told(engine, tmp_path):
    composition = Composition(WEIGHTS)
    exact, cut = bake(engine, composition), bake(engine, composition, rank=3)
    assert {own.A.shape[0] for own in cut.adapter.values()} == {3}
    whole = left = 0.0
    for path, own in exact.adapter.items():
        delta, approximation = own.B @ own.A, cut.adapter[path].B @ cut.adapter[path].A
        sigma = torch.linalg.svdvals(delta)
        torch.testing.assert_close(
            (delta - approximation).norm(), sigma[3:].square().sum().sqrt(), rtol=1e-3, atol=1e-4
        )
        whole, left = whole + float(sigma.square().sum()), left + float(sigma[:3].square().sum())
    assert cut.kept == pytest.approx(left / whole, rel=1e-4) and 0.3 < cut.kept < 1
    write_adapter(tmp_path, cut.adapter, engine.base.id)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (3, 3, {})
    logits_by_peft(engine, tmp_path)


def test_a_rank_that_is_enough_loses_nothing(engine, tmp_path):
    cut = bake(engine, Composition(WEIGHTS), rank=16)
    write_adapter(tmp_path, cut.adapter, engine.base.id)
    assert cut.kept == pytest.approx(1)
    expected = engine.next_token_logits(PROMPT, Composition(WEIGHTS))
    np.testing.assert_allclose(logits_by_peft(engine, tmp_path), expected, atol=1e-4)


# Ranks that vLLM serves (its max_lora_rank), and the files' limits of both runtimes, from their sources.
VLLM_RANKS = {1, 8, 16, 32, 64, 128, 256, 320, 512}


def test_an_adapter_of_one_rank_keeps_to_what_llama_cpp_and_vllm_read(engine, tmp_path):
    """Both scale by the configuration's lora_alpha and know no patterns: llama.cpp divides by each tensor's
    rank, vLLM by the configuration's r. So ranks must be equal, and both must come out at B A."""
    baked = bake(engine, Composition(WEIGHTS, curves=CURVES), rank=8)
    write_adapter(tmp_path, baked.adapter, engine.base.id)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] in VLLM_RANKS and config["bias"] == "none"
    assert not (
        config["rank_pattern"] or config["alpha_pattern"] or config["use_dora"] or config["use_rslora"]
    )
    assert "modules_to_save" not in config and isinstance(config["target_modules"], list)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    paths = {name.rpartition(".lora_")[0] for name in tensors}
    assert set(tensors) == {f"{path}.lora_{half}.weight" for path in paths for half in "AB"}
    for path in paths:
        A, B = (tensors[f"{path}.lora_{half}.weight"] for half in "AB")
        own = baked.adapter[path.removeprefix("base_model.model.")]
        assert A.shape[0] == B.shape[1] == config["r"]
        for scaling in (config["lora_alpha"] / A.shape[0], config["lora_alpha"] / config["r"]):
            torch.testing.assert_close(scaling * (B @ A), own.scaling * (own.B @ own.A), rtol=1e-4, atol=1e-6)


def test_it_loads_here_again_and_does_the_same(engine, tmp_path):
    composition = Composition(WEIGHTS, "contrast", curves=CURVES)
    write_adapter(tmp_path, bake(engine, composition).adapter, engine.base.id)
    fresh = tiny.engine(engine.base.spec.name, {"mix": tmp_path})
    np.testing.assert_allclose(
        fresh.next_token_logits(PROMPT, Composition({"mix": 1})),
        engine.next_token_logits(PROMPT, composition),
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        *(({"method": name}, reason) for name, reason in REFUSED.items()),
        ({"schedule": {"plain": [2, 3]}}, "schedule"),
        ({"method": "kl", "live": 4}, "while it writes"),
    ],
)
def test_what_no_adapter_can_do_says_why(engine, asked, reason):
    with pytest.raises(ComposerError, match=reason):
        bake(engine, Composition(WEIGHTS, **asked), PROMPT)


def test_a_method_that_reads_the_prompt_asks_for_one(engine):
    with pytest.raises(ComposerError, match="--prompt"):
        bake(engine, Composition(WEIGHTS, "kl"))


@pytest.mark.parametrize("rank", [0, -1, 5000])
def test_a_rank_out_of_range_is_a_sentence(engine, rank):
    with pytest.raises(ComposerError, match="between 1 and 4096"):
        bake(engine, Composition(WEIGHTS), rank=rank)


def test_a_mix_of_nothing_is_no_adapter(engine, tmp_path):
    with pytest.raises(ComposerError, match="adds nothing"):
        write_adapter(tmp_path, bake(engine, Composition()).adapter, "a/b")


def test_the_command_writes_adapter_card_and_recipe(tmp_path, capsys):
    out = tmp_path / "mix"
    argv = [
        "export",
        "--weights",
        "positive=1,sports=0.5",
        "--curves",
        "sports=late",
        "--out",
        str(out),
        "--json",
    ]
    assert main(argv) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sites"] == 210 and answer["ranks"] == [8, 16] and answer["kept"] == 1
    assert {each.name for each in out.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
        "recipe.yaml",
    }
    assert "sports: 0.5" in (out / "README.md").read_text("utf-8")
    assert main(["export", "--weights", "positive=1,sports=1", "--method", "kl", "--out", str(out)]) == 2
    assert "--prompt" in capsys.readouterr().err

"""Adapters against the layers of the bases that people have: Llama 3, Mistral, Qwen 2.5 and 3, Gemma 3."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from composer.adapters.catalog import load_catalog
from composer.adapters.files import read_folder, weights_limit
from composer.adapters.fit.mapping import base_names
from composer.adapters.reading import Reader
from composer.core.catalog_types import AdapterSpec, FitReport
from composer.core.errors import ComposerError
from composer.model.architectures import LLAMA
from composer.model.gated_model import GatedModel
from composer.model.runtime.llama.families import blocks_of
from tests.tools.real_shapes import (
    LINEARS,
    SHAPES,
    config_of,
    lora,
    peft_tensors,
    without_memory,
    write_adapter,
)

# Its repository holds an image encoder too, so it is of a family of its own.
FAST = [name for name in SHAPES if name != "gemma-3-4b"]
# What PEFT targets on these families when a config names nothing, and what most recipes do.
SOME, ALL = ["q_proj", "v_proj"], list(LINEARS)


@cache
def gated(name: str) -> GatedModel:
    return GatedModel(without_memory(config_of(name)))


def reader(name: str) -> Reader:
    names = base_names(without_memory(config_of(name)))
    return Reader(gated(name).sites, names, torch.device("cpu"), torch.bfloat16)


def layers(name: str) -> int:
    return config_of(name).get_text_config().num_hidden_layers


def adapter(
    folder: Path, name: str, targets: list[str], r: int = 8, rename: Callable[[str], str] = str
) -> Path:
    """The files of an adapter that PEFT would save for a base, its tensors renamed."""
    config = lora(targets, r)
    tensors = peft_tensors(without_memory(config_of(name)), config)
    tensors = {rename(key): tensor for key, tensor in tensors.items()}
    return write_adapter(folder / "joy", tensors, config, SHAPES[name].id)


def check(name: str, folder: Path) -> FitReport:
    return reader(name).check(AdapterSpec("joy", str(folder)))


@pytest.mark.parametrize("name", SHAPES)
def test_a_base_has_as_many_parameters_as_its_card_counts(name):
    model = without_memory(config_of(name))
    assert sum(each.numel() for each in model.parameters()) == SHAPES[name].parameters


@pytest.mark.parametrize("name", SHAPES)
def test_every_linear_layer_of_the_decoder_is_a_site(name):
    places = [(f"{'mlp' if 'gate up down'.count(each[:2]) else 'self_attn'}.{each}") for each in LINEARS]
    expected = [f"{SHAPES[name].layers}.{index}.{place}" for index in range(layers(name)) for place in places]
    assert list(gated(name).sites) == expected
    assert gated(name).layers == layers(name)


@pytest.mark.parametrize("name", FAST)
def test_the_family_has_a_fast_pass(name):
    assert LLAMA.fits(gated(name)), LLAMA.why_not(gated(name))


def test_gemma_with_an_image_encoder_runs_through_transformers_modules():
    assert "the family gemma3, " in LLAMA.why_not(gated("gemma-3-4b"))


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("mistral-7b", {4096: 32}),
        ("llama-3.1-8b", {None: 32}),
        ("qwen2.5-7b", {None: 28}),
        ("qwen3-8b", {None: 36}),
        ("gemma-3-1b", {512: 22, None: 4}),
    ],
)
def test_the_windows_of_attention_are_the_published_ones(name, windows):
    found = [block.window for block in blocks_of(gated(name))]
    assert {window: found.count(window) for window in set(found)} == windows


@pytest.mark.parametrize("targets", [SOME, ALL], ids=["q and v", "all"])
@pytest.mark.parametrize("name", SHAPES)
def test_what_peft_saves_for_a_base_fits_it(name, targets, tmp_path):
    report = check(name, adapter(tmp_path, name, targets, 16))
    assert report.ok, report
    assert len(report.ranks) == len(targets) * layers(name)
    assert set(report.ranks.values()) == {16}


def test_an_adapter_of_lora_lands_size_fits_the_catalogs_7b_base_and_loads(tmp_path):
    """Their files have 13.6 MB, as rank 8 on q and v has in float32; their configs could not be read."""
    assert load_catalog("adapters.yaml").base("mistral-7b").id == SHAPES["mistral-7b"].id
    folder = adapter(tmp_path, "mistral-7b", SOME, 8)
    report, factors = reader("mistral-7b").read(AdapterSpec("joy", str(folder)))
    assert report.ok and f"{report.bytes / 1e6:.1f}" == "13.6"
    assert factors.keys() == report.ranks.keys()
    shapes = {path.rpartition(".")[2]: (each.B.shape, each.A.shape) for path, each in factors.items()}
    assert shapes == {"q_proj": ((4096, 8), (8, 4096)), "v_proj": ((1024, 8), (8, 4096))}


def test_a_large_adapter_of_a_visitor_is_refused_with_the_variable_that_lets_it_in(tmp_path):
    folder = adapter(tmp_path, "mistral-7b", ALL, 64)
    with pytest.raises(ComposerError, match=r"weighs 671 MB .*COMPOSER_MAX_ADAPTER_MB to 672 or more"):
        read_folder(folder, "joy", str(folder), limit_bytes=weights_limit(env={}))


def test_names_of_before_transformers_moved_gemmas_decoder_are_mapped(tmp_path):
    def before(key: str) -> str:
        return key.replace("model.model.language_model.layers", "model.language_model.model.layers")

    report = check("gemma-3-4b", adapter(tmp_path, "gemma-3-4b", ALL, rename=before))
    assert report.ok, report
    assert set(report.ranks) == set(gated("gemma-3-4b").sites)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("gemma-3-4b", "model.language_model.layers", "model.layers"),
        ("gemma-3-1b", "model.layers", "model.language_model.layers"),
        ("llama-3.1-8b", "base_model.model.model.layers", "model.layers"),
    ],
)
def test_names_of_the_same_decoder_in_another_model_are_told_how_to_be_renamed(name, old, new, tmp_path):
    folder = adapter(tmp_path, name, SOME, rename=lambda key: key.replace(old, new))
    report = check(name, folder)
    first = f"{SHAPES[name].layers}.0.self_attn.q_proj.lora_A.weight"
    assert not report.ok and f"to base_model.model.{first}" in report.reasons[0], report


def test_an_adapter_of_a_smaller_base_is_refused_with_both_shapes(tmp_path):
    report = check("mistral-7b", adapter(tmp_path, "llama-3.2-1b", ALL))
    assert not report.ok
    assert "q_proj (2048x8 and 8x2048 on 4096x4096)" in report.reasons[0]
    assert "it says it was trained for meta-llama/Llama-3.2-1B" in report.reasons[0]


def test_an_adapter_of_a_deeper_base_is_refused_even_where_its_shapes_are_the_same(tmp_path):
    report = check("llama-3.1-8b", adapter(tmp_path, "qwen3-8b", SOME))
    assert not report.ok and len(report.reasons) == 1
    assert "targets model.layers.32.self_attn.q_proj" in report.reasons[0]
    assert "Qwen/Qwen3-8B" in report.reasons[0]


def test_shapes_alone_do_not_tell_llama_3_1_8b_from_mistral_7b(tmp_path):
    """Their layers are the same in number and size; docs/bases.md says so."""
    assert gated("llama-3.1-8b").sites == gated("mistral-7b").sites
    assert check("mistral-7b", adapter(tmp_path, "llama-3.1-8b", ALL)).ok

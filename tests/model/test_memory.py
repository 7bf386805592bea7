"""What memory is used by what, and that an 8B-shaped base stays within what a card has."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from composer.adapters.bank import AdapterBank, LoraFactors, SiteFactors
from composer.core.composition import Composition
from composer.model.gated_model import GatedModel
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.graphs.kv_pool import BLOCK, START_TOKENS
from composer.model.runtime.graphs.memory import in_words, memory_by_use, runner_memory, tensors_of
from composer.model.runtime.llama.fused_linear import PackedLinear
from composer.model.runtime.llama.runner import LlamaRunner
from tests.tools import tiny

GB = 1e9
ADAPTERS, RANK = 8, 16


@pytest.fixture(scope="module")
def large() -> tuple[GatedModel, CudaGraphRunner, AdapterBank]:
    """An 8B-shaped bfloat16 base with eight adapters at every site, without their numbers."""
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        model = GatedModel(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16))
        sites = {}
        for path, (features, inputs) in model.sites.items():
            parts = (
                LoraFactors(
                    torch.empty(RANK, inputs, dtype=torch.bfloat16),
                    torch.empty(features, RANK, dtype=torch.bfloat16),
                    1.0,
                )
                for _ in range(ADAPTERS)
            )
            sites[path] = SiteFactors(tuple(parts), tuple(range(ADAPTERS)))
    bank = AdapterBank(tuple(map(str, range(ADAPTERS))), sites)
    return model, CudaGraphRunner(LlamaRunner(model, "same"), lambda run: run), bank


def test_an_8b_base_with_eight_adapters_and_32_slots_stays_under_20_gb_and_in_nf4_under_8(large):
    model, graphs, bank = large
    layout = model.layout(bank)
    graphs.adapters(graphs.shape(layout, 1, 1))  # all eight turned up
    graphs.cache(32, 2048)
    memory = runner_memory(model, graphs, layout)
    assert memory["base weights"] / GB == pytest.approx(16.06, abs=0.01)
    assert memory["packed weights"] < 0.1 * GB, "the packed products are the weights themselves"
    assert memory["adapters"] / GB == pytest.approx(0.67, abs=0.01)
    assert memory["adapters by group"] / GB == pytest.approx(1.02, abs=0.03)
    token = 32 * 2 * 8 * 128 * 2
    assert memory["KV pool"] == (START_TOKENS + 2 * BLOCK) * token == pytest.approx(0.55 * GB, rel=0.02)
    bf16 = sum(memory.values())
    assert bf16 < 19 * GB
    # In nf4 a linear layer's weight is half a byte, and of 64 weights one byte and of 256 such a float more.
    linear = sum(features * inputs for features, inputs in model.sites.values())
    nf4 = bf16 - 2 * linear + linear * (0.5 + (1 + 4 / 256) / 64)
    assert nf4 < 8 * GB
    # 32 slots that fill 256 tokens each.
    assert bf16 + (32 * 256 - START_TOKENS) * token < 20 * GB


def test_shared_memory_is_counted_once_for_the_first_use():
    whole = torch.zeros(8)
    found = memory_by_use({"first": [whole[:2], whole], "second": [whole[4:], torch.zeros(2)], "third": []})
    assert found == {"first": 32, "second": 8, "third": 0}


def test_the_tensors_of_bitsandbytes_weights_are_found():
    class State:
        def __init__(self):
            self.absmax, self.code, self.nested = torch.zeros(3), torch.zeros(2), None

    State.__module__ = "bitsandbytes.functional"
    layer = torch.nn.Linear(2, 2, bias=False)
    layer.weight.quant_state = State()
    assert sorted(tensor.numel() for tensor in tensors_of(layer)) == [2, 3, 4]


def test_a_running_engines_report_names_what_there_is(tmp_path):
    engine = tiny.engine("llama", {"one": tiny.adapter(tmp_path / "one", "llama", 1, r=4)})
    plain = runner_memory(engine.model, engine.runner, engine.snapshot.layout)
    weights = sum(each.nbytes for each in engine.model.model.parameters())
    assert weights <= plain["base weights"] < 2 * weights and plain["adapters"] and not plain["KV pool"]
    graphs = CudaGraphRunner(engine.runner.inner, lambda run: run)
    graphs.cache(1, 64)
    found = runner_memory(engine.model, graphs, engine.snapshot.layout)
    assert found["KV pool"] and found["graphs"] == 0
    assert in_words({"base weights": 16_060_000_000, "graphs": 0, "KV pool": 540_000_000}) == (
        "memory in GB: base weights 16.06, KV pool 0.54; 16.60 in all"
    )


def test_packed_copies_of_a_cpu_and_the_compiled_steps_weights_are_counted(tmp_path):
    engine = tiny.engine("llama", {"one": tiny.adapter(tmp_path / "one", "llama", 1, r=4)})
    before = engine.memory()["packed weights"]
    engine.next_token_logits("Hello", Composition({"one": 1}))
    packed = engine.memory()["packed weights"]
    if isinstance(engine.runner.inner.head, PackedLinear):
        modules = engine.model.model.modules()
        linear = sum(each.weight.nbytes for each in modules if isinstance(each, torch.nn.Linear))
        assert packed - before >= 0.9 * linear
    engine.runner.compile()
    assert engine.memory()["packed weights"] - packed >= 0.9 * engine.runner.step.bytes - 1000


def test_the_log_says_what_memory_is_used_when_the_step_is_compiled(tmp_path, caplog):
    engine = tiny.engine("llama", {"one": tiny.adapter(tmp_path / "one", "llama", 1, r=4)})
    with caplog.at_level(logging.INFO):
        assert engine.warm_up().wait(300)
    assert "memory in GB: base weights" in caplog.text

"""The families that share Llama's pass: their numbers, what is compiled, and what the log says of others."""

from __future__ import annotations

import logging

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from composer import Composition
from composer.model.gated_model import GatedModel
from composer.model.lens import Lens
from composer.model.runtime.kv_cache import LENGTH_MULTIPLE, KVCache
from composer.model.runtime.llama import runner as llama
from composer.model.runtime.llama.families import norm_factor
from composer.model.runtime.llama.layer import Layer, rms_norm
from composer.model.runtime.llama.layer_table import LayerTable
from composer.model.runtime.llama.runner import LlamaRunner, decode_layers
from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.runner import Inputs, TransformersRunner
from composer.model.runtime.select import select_runner
from tests.tools import tiny

OWN = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
PROMPTS = [list(range(5, 5 + length)) for length in (3, 19, 9)]
STEPS = 12


@pytest.fixture(scope="module", params=OWN)
def engine(request, tmp_path_factory):
    return tiny.engine(
        request.param, tiny.three_unlike(tmp_path_factory.mktemp(request.param), request.param)
    )


def gates_of(engine, rows: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(rows, engine.model.layers, len(engine.names))


def decoded(engine, decode, layout) -> list[torch.Tensor]:
    """Logits after three prompts and after each of some further tokens, and the telemetry's z."""
    gates = gates_of(engine, len(PROMPTS)).to(layout.dtype)
    read = decode.read(layout, gates, PROMPTS)
    cache, plan = KVCache(len(PROMPTS), LENGTH_MULTIPLE), decode.prepare(layout, gates)
    for row, prompt in enumerate(PROMPTS):
        cache.write(row, len(prompt), read, row)
    found = [read.logits, read.telemetry.coded]
    for step in range(STEPS):
        tokens = torch.tensor([40 + step, 80 + step, 120 + step])
        positions = torch.tensor([len(prompt) + step for prompt in PROMPTS])
        logits, telemetry = decode(plan, Inputs(tokens, positions, 64), cache)
        found += [logits, telemetry.coded, telemetry.energy]
    return found


def logits_of(found: list[torch.Tensor]) -> list[torch.Tensor]:
    return [each for each in found if each.shape[-1] == tiny.COMMON["vocab_size"]]


def test_prompts_and_tokens_beyond_the_window_come_out_as_from_the_modules(engine):
    layout = engine.snapshot.layout
    for own, reference in zip(
        decoded(engine, engine.runner, layout),
        decoded(engine, TransformersRunner(engine.model), layout),
        strict=True,
    ):
        torch.testing.assert_close(own, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", OWN)
def test_in_bfloat16_the_pass_stays_as_near_as_the_modules_do(family, tmp_path):
    folders = tiny.three_unlike(tmp_path, family)
    exact = tiny.engine(family, folders)
    rounded = tiny.engine_of(tiny.model(family, dtype=torch.bfloat16), name=family, dtype="bfloat16")
    assert all(rounded.add_adapter(str(folder), name=name).ok for name, folder in folders.items())
    right, own, modules = (
        logits_of(decoded(engine, decode, engine.snapshot.layout))
        for engine, decode in (
            (exact, exact.runner),
            (rounded, rounded.runner),
            (rounded, TransformersRunner(rounded.model)),
        )
    )
    ours, theirs = (
        sum(float((each.float() - true).square().mean()) for each, true in zip(found, right, strict=True))
        for found in (own, modules)
    )
    assert isinstance(rounded.runner, LlamaRunner) and len(own) == 1 + STEPS
    assert ours < 1.5 * theirs


@pytest.mark.parametrize("kind", [Qwen3RMSNorm, Gemma3RMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norms_are_rounded_where_the_modules_round(kind, dtype):
    torch.manual_seed(0)
    norm = kind(64).to(dtype)
    norm.weight.data.add_(torch.randn(64).to(dtype))
    x, gemma = torch.randn(7, 3, 64).to(dtype), kind is Gemma3RMSNorm
    assert torch.equal(rms_norm(x, norm_factor(norm, gemma), 1e-6, gemma), norm(x))


@pytest.mark.parametrize("family", ["mistral", "qwen3", "gemma3"])
def test_adapters_do_what_they_do_in_peft(family, tmp_path):
    folders = tiny.three_unlike(tmp_path, family)
    engine, (first, *rest) = tiny.engine(family, folders), folders
    oracle = PeftModel.from_pretrained(tiny.model(family), folders[first], adapter_name=first)
    for name in rest:
        oracle.load_adapter(folders[name], adapter_name=name)
    oracle.base_model.set_adapter(list(folders))
    prompt = "The quick brown fox jumps"
    assert isinstance(engine.runner, NativeRunner)
    with torch.no_grad():
        ids = torch.tensor([engine.base.tokenizer(prompt)["input_ids"]])
        expected = oracle.eval()(input_ids=ids).logits[0, -1]
    logits = engine.next_token_logits(prompt, Composition(dict.fromkeys(folders, 1.0)))
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=0)


def test_the_lens_says_at_the_last_layer_what_the_model_says(engine):
    read = engine.runner.read(engine.snapshot.layout, gates_of(engine, len(PROMPTS)), PROMPTS)
    said = Lens(engine.model.model).log_probs(read.hidden[-1], norm=True)
    torch.testing.assert_close(said, read.logits.log_softmax(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_is_one_graph_for_the_compiler(engine, rows):
    torch._dynamo.reset()
    runner, layout = engine.runner.inner, engine.snapshot.layout
    table, gates = runner.table(layout), gates_of(engine, rows)
    inputs = Inputs(torch.arange(rows) + 40, torch.arange(rows) + 12, 64)
    hidden, context = runner.embed(inputs, LENGTH_MULTIPLE)
    scales, none = runner.prepare(layout, gates).scales, (None,) * len(table.layers)
    results = []
    for run in (decode_layers, torch.compile(decode_layers, fullgraph=True, backend="aot_eager")):
        cache = KVCache(rows, LENGTH_MULTIPLE)
        torch.manual_seed(2)
        past = torch.randn(rows, 2 * runner.shape.kv_heads, 12, runner.shape.width)
        buffers = tuple(runner.empty_buffer(cache) for _ in table.layers)
        for buffer in buffers:
            buffer[:, :, :12] = past
        with torch.no_grad():
            results.append(run(table.layers, runner.shape, hidden, context, scales, buffers, none))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def test_a_step_makes_each_mask_once(monkeypatch):
    made = []
    make = llama.decode_mask
    monkeypatch.setattr(llama, "decode_mask", lambda *given: made.append(given[-1]) or make(*given))
    runner = LlamaRunner(GatedModel(tiny.model("gemma3")), "same")
    runner.embed(Inputs(torch.tensor([5]), torch.tensor([0]), 64), LENGTH_MULTIPLE)
    assert made == [8, None]


def kinds(family: str) -> list[Layer]:
    model = GatedModel(tiny.model(family))
    bank = tiny.engine("llama", {}).snapshot.layout.bank
    return list(LlamaRunner(model, "apart").table(model.layout(bank)).layers)


def test_layers_share_code_only_where_it_is_the_same():
    sliding, full, also = kinds("gemma3")
    assert sliding.kind == also.kind != full.kind
    assert (sliding.window, full.window) == (8, None) and (sliding.rope, full.rope) == (0, 1)
    plain, other = kinds("llama")[0], kinds("qwen3")[1]
    assert plain.window is other.window is None and plain.kind != other.kind


@pytest.mark.parametrize(
    ("count", "pattern", "sizes"),
    [
        (30, 1, [10, 10, 10]),
        (24, 1, [12, 12]),
        (18, 6, [6, 6, 6]),  # Gemma3-270m: one kind of segment
        (26, 6, [12, 12, 2]),  # Gemma3-1B: no segments of two layers, which divide it evenly
        (3, 1, [3]),
    ],
)
def test_segments_are_few_and_of_few_kinds(count, pattern, sizes):
    model = GatedModel(tiny.model("gemma3"))
    runner = LlamaRunner(model, "apart")
    table = runner.table(model.layout(tiny.engine("llama", {}).snapshot.layout.bank))
    sliding, full = table.layers[:2]
    layers = tuple(sliding if (place + 1) % pattern else full for place in range(count))
    segments = LayerTable(table.layout, layers, ()).segments
    assert [len(segment.layers) for segment in segments] == sizes
    assert [layer for segment in segments for layer in segment.layers] == list(layers)


COMMON = tiny.COMMON | tiny.SLIDING
LINEAR = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
OUTSIDE = {
    "gpt_neox": ({}, "the family gpt_neox"),
    "gemma2": (COMMON, "the family gemma2"),
    "llama": (COMMON | dict(hidden_act="gelu"), "activation is gelu"),
    "qwen3": (COMMON | dict(rope_parameters=LINEAR), "rotation is of the type dynamic"),
    "gemma3_text": (COMMON | dict(final_logit_softcapping=30.0), "sets final_logit_softcapping"),
}


@pytest.mark.parametrize("family", OUTSIDE)
def test_the_log_says_in_a_sentence_why_a_base_runs_through_modules(family, caplog):
    own, reason = OUTSIDE[family]
    model = GatedModel(tiny.random(AutoConfig.for_model(family, **(own or tiny.COMMON))))
    with caplog.at_level(logging.INFO):
        assert isinstance(select_runner(model), TransformersRunner)
    (record,) = (each for each in caplog.records if "modules" in each.getMessage())
    assert record.levelno == logging.INFO and reason in record.getMessage()
    assert "\n" not in record.getMessage()


def test_the_log_says_nothing_where_a_family_has_a_pass(caplog):
    with caplog.at_level(logging.INFO):
        assert isinstance(select_runner(GatedModel(tiny.model("gemma3"))), NativeRunner)
    assert "modules" not in caplog.text

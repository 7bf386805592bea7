"""LLM.int8 layers as one product: bitsandbytes' numbers, without a look at them on the host."""

from __future__ import annotations

import bitsandbytes
import numpy as np
import pytest
import torch

from composer import Engine, Sampling
from composer.core.catalog_types import BaseSpec, Catalog
from composer.model.loading import load_base
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.batch import Batch, BatchRow
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.graphs.warm_up import compile_step
from composer.model.runtime.kv_cache import cache_for
from composer.model.runtime.llama.llm_int8 import (
    LlmInt8Linear,
    joinable,
    rounded_inputs,
    stack_int8,
    waits_for_host,
)
from composer.model.runtime.llama.runner import LlamaRunner
from tests.tools import tiny
from tests.tools.tape import Tape

GREEDY = Sampling(max_new_tokens=400, temperature=0)
HALVES = [torch.float16, torch.bfloat16]


def layers(widths: tuple[int, ...], features: int = 160, threshold: float = 6.0) -> list:
    torch.manual_seed(len(widths))
    made = [
        bitsandbytes.nn.Linear8bitLt(
            features, width, bias=bool(place % 2), has_fp16_weights=False, threshold=threshold
        )
        for place, width in enumerate(widths)
    ]
    return [layer.to("cpu").eval().requires_grad_(False) for layer in made]


def inputs(rows: int, features: int = 160) -> torch.Tensor:
    """With numbers beyond the threshold: a column of all rows, and single ones."""
    x = torch.randn(rows, features, generator=torch.Generator().manual_seed(rows))
    x[:, 7] *= 20
    x[-1, 100], x[0, 3] = -30, 6
    return x


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("threshold", [6.0, 0.0])
@pytest.mark.parametrize("widths", [(48,), (64, 32, 33)])
def test_a_row_gets_what_bitsandbytes_gives_it_alone(widths, threshold, dtype):
    bare, x = layers(widths, threshold=threshold), inputs(5).to(dtype)
    expected = torch.cat([torch.cat([layer(row[None]) for layer in bare], dim=1) for row in x])
    A = torch.randn(3, 160).to(dtype)
    out, z = LlmInt8Linear(bare, A, stack_int8(bare))(x)
    assert out.dtype == dtype and (out - expected).norm() < torch.finfo(dtype).eps * expected.norm()
    torch.testing.assert_close(z, x @ A.T)


def test_a_row_does_not_change_with_its_neighbours():
    bare = layers((64, 32))
    product = LlmInt8Linear(bare, None, stack_int8(bare))
    x = inputs(9)
    torch.testing.assert_close(
        product(x)[0], torch.cat([product(row[None])[0] for row in x]), atol=1e-4, rtol=0
    )


def test_what_is_rounded_and_what_is_not():
    x = torch.tensor([[0.0, 2.54, -1.225, 6.0, -300.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[0.0, 2.54, -1.22, 6.0, -300.0], [0.0] * 5])  # levels of 0.02
    torch.testing.assert_close(rounded_inputs(x, 6.0), expected)
    level = 300 / 127
    assert rounded_inputs(x, 0.0)[0].tolist() == pytest.approx([0, level, -level, 3 * level, -300])


def test_the_layers_go_on_as_views_of_what_is_joined():
    bare, x = layers((64, 32, 33)), inputs(3).half()
    before = [layer(x) for layer in bare]
    joint = stack_int8(bare)
    assert all(torch.equal(layer(x), was) for layer, was in zip(bare, before, strict=True))
    storage = joint.weight.untyped_storage().data_ptr()
    assert {layer.weight.untyped_storage().data_ptr() for layer in bare} == {storage}
    assert {layer.state.CB.untyped_storage().data_ptr() for layer in bare} == {storage}
    assert stack_int8(bare).weight.data_ptr() == joint.weight.data_ptr(), "another runner makes no copy"


@pytest.mark.parametrize("rows", [1, 3])
def test_the_compiler_follows_the_product(rows):
    bare = layers((64, 32))
    product = LlmInt8Linear(bare, None, stack_int8(bare))
    x = inputs(rows)
    torch._dynamo.reset()
    compiled = torch.compile(lambda given: product(given)[0], fullgraph=True)(x)
    torch.testing.assert_close(compiled, product(x)[0], atol=1e-3, rtol=1e-3)


def test_layers_that_cannot_be_joined_wait_for_the_host(monkeypatch):
    monkeypatch.setattr(LlmInt8Linear, "fits", joinable)
    unlike = [layers((64,))[0], layers((32,), threshold=3.0)[0]]
    assert waits_for_host(unlike) and not waits_for_host(unlike[:1])
    assert not waits_for_host([torch.nn.Linear(4, 4)])
    assert not waits_for_host(layers((8,), threshold=0.0))
    monkeypatch.undo()
    assert waits_for_host(unlike[:1]), "bitsandbytes' own products are taken on a CPU"


# --- a whole base ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> BaseSpec:
    folder = tmp_path_factory.mktemp("int8")
    tiny.model("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return BaseSpec("llama", "tiny/llama", folder=str(folder), quantization="int8")


@pytest.fixture(scope="module")
def engine(spec, tmp_path_factory):
    """As if it were on a card."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlmInt8Linear, "fits", joinable)
        yield loaded(spec, tmp_path_factory)


def loaded(spec, tmp_path_factory) -> Engine:
    made = Engine(Catalog(".", "llama", {"llama": spec}), load_base(spec, device="cpu"))
    for name, folder in tiny.three_unlike(tmp_path_factory.mktemp("adapters"), "llama").items():
        assert made.add_adapter(str(folder), name=name).ok
    return made


def rows(layout, count: int) -> list[BatchRow]:
    draw = np.random.default_rng(count)
    return [
        BatchRow(
            key,
            draw.integers(5, 200, 4 + key).tolist(),
            LogitMixture.one(draw.normal(size=(layout.layers, len(layout.bank.names)))),
            GREEDY,
        )
        for key in range(count)
    ]


class Listening:
    """A runner that keeps the logits of its passes."""

    def __init__(self, runner):
        self.heard: list[torch.Tensor] = []
        self.prepare, self.read, self.run = runner.prepare, runner.read, runner

    def __call__(self, *given):
        logits, telemetry = self.run(*given)
        self.heard.append(logits)
        return logits, telemetry


def texts(runner, layout, count: int, steps: int = 12) -> dict[int, list[int]]:
    batch = Batch(runner, layout, frozenset(), count, 2048)
    batch._cache = cache_for(getattr(runner, "run", runner), count, 2048)
    batch.add(rows(layout, count), layout)
    for _ in range(steps):
        batch.step()
    return {row.key: row.ids for row in batch.rows}


def test_the_step_of_an_int8_base_is_captured(engine):
    assert isinstance(engine.runner, LlamaRunner)
    tape = Tape()  # refuses what waits for the host
    graphs, layout = CudaGraphRunner(engine.runner, tape, 1024), engine.snapshot.layout
    for count in (1, 3):
        assert texts(graphs, layout, count) == texts(engine.runner, layout, count)
    assert tape.captures == 2 and tape.replays == 24


def test_the_step_of_an_int8_base_is_compiled_too(engine):
    # A tape records operators, which compiled code does not call.
    graphs = CudaGraphRunner(engine.runner, lambda run: run, 1024)
    layout = engine.snapshot.layout
    torch._dynamo.reset()
    for count in (1, 3):
        shape = graphs.shape(layout, count, 1)
        graphs.use(compile_step(graphs.adapters(shape), graphs.pool, min(count, 2), graphs.compiled))
        ours, theirs = Listening(graphs), Listening(engine.runner)
        for runner in (ours, theirs):
            texts(runner, layout, count, steps=1)
        # Another order of sums moves a number to the next level now and then, and no more than that.
        apart = ours.heard[0] - theirs.heard[0]
        assert apart.square().mean().sqrt() < 0.05 * theirs.heard[0].std()


def test_a_process_holds_an_int8_base_once(spec, engine):
    other = load_base(spec, device="cpu")
    own, its = (
        {each.data_ptr() for each in model.parameters()} for model in (engine.base.model, other.model)
    )
    assert own == its and other.model is not engine.base.model
    again = Engine(Catalog(".", "llama", {"llama": spec}), other)
    assert np.array_equal(again.next_token_logits("abc"), engine.next_token_logits("abc"))
    assert {each.data_ptr() for each in other.model.parameters()} == own

"""What only a GPU can show: it says what a CPU says, and its graphs can be captured and replayed."""

from __future__ import annotations

from dataclasses import replace
from threading import Event, Thread

import bitsandbytes
import numpy as np
import pytest
import torch

from composer import Engine
from composer.adapters.catalog import load_catalog
from composer.analysis.explain import explain
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.scheduler import Scheduler
from composer.methods import METHODS
from composer.model.checkpoints.memory_estimate import estimate_memory
from composer.model.loading import load_base, with_same_parameters
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.batch import Batch, BatchRow
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.graphs.capture import CudaCapture
from composer.model.runtime.graphs.memory import in_words, memory_by_use, runner_memory, tensors_of
from composer.model.runtime.graphs.warm_up import warm_up
from composer.model.runtime.kv_cache import cache_for
from composer.model.runtime.llama.fused_linear import fuse_linears
from composer.model.runtime.nf4 import product as products
from composer.model.runtime.nf4.choice import difference
from composer.model.runtime.nf4.linear import Nf4Linear
from composer.model.runtime.nf4.plan import plans
from composer.model.runtime.nf4.stacking import stack
from composer.model.runtime.token_routing import RouterConfig
from tests.tools import tiny
from tests.tools.random_bases import peft_logits, random_nf4, relative_distance, save_adapter
from tests.tools.real_shapes import config_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

NAMES = ("positive", "negative", "sports")
WEIGHTS = {"positive": 1.0, "sports": 0.8}
PROMPT = "The last game of the season"
GREEDY = Sampling(max_new_tokens=24, temperature=0, time_limit=600)


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    """The default base with three adapters, on the GPU and on the CPU."""
    return tuple(
        Engine.from_catalog("adapters.yaml", device=device, only=NAMES) for device in ("cuda", "cpu")
    )


def typed(dtype: str, quantization: str) -> Engine:
    catalog = load_catalog("adapters.yaml")
    spec = replace(catalog.base(None), dtype=dtype, quantization=quantization)
    engine = Engine(catalog, load_base(spec, "cuda"))
    for adapter in spec.adapters:
        if adapter.name in NAMES:
            assert engine.add_adapter(adapter.source, name=adapter.name).ok
    return engine


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_it_says_on_a_cpu(engines, method):
    composition = Composition(weights=WEIGHTS, method=method)
    gpu, cpu = (engine.next_token_logits(PROMPT, composition) for engine in engines)
    assert np.abs(gpu - cpu).max() < 0.02 * np.ptp(cpu)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_decodes_as_it_reads(engines, method):
    """Graphs, caches and routes against one pass over the finished text, which uses none of them."""
    gpu, _ = engines
    composition = Composition(weights=WEIGHTS, method=method)
    steps = list(gpu.generate(PROMPT, composition, GREEDY))
    assert len(steps) == GREEDY.max_new_tokens or steps[-1].finish == "end"
    if METHODS[method].prompt_stats:  # it would read the longer prompt
        return
    text = PROMPT + steps[-1].text
    again = gpu.next_token_logits(text[: -len(steps[-1].piece) or None], composition)
    assert again[steps[-1].token] > again.max() - 0.01 * np.ptp(again)


def test_the_base_alone_and_a_sum_are_word_for_word_the_cpus(engines):
    for weights in ({}, WEIGHTS):
        texts = [
            list(engine.generate(PROMPT, Composition(weights=weights), GREEDY))[-1].text for engine in engines
        ]
        assert texts[0] == texts[1]


def test_an_overflow_leaves_nothing_in_the_graphs_and_the_cache():
    """In float16 a strong mix overflows; rows beside it and after it get the words they get alone."""
    engine = typed("float16", "none")
    calm = Composition(weights=WEIGHTS)
    wild = Composition(weights=dict.fromkeys(NAMES, 8.0), strength=4, bands=(2, 2, 2))
    alone = [step.token for step in engine.generate(PROMPT, calm, GREEDY)]
    scheduler = Scheduler(engine, slots=2)
    try:
        for _ in range(3):
            with pytest.raises(ComposerError, match="overflowed"):
                list(scheduler.generate(PROMPT, wild, GREEDY))
            assert [step.token for step in scheduler.generate(PROMPT, calm, GREEDY)] == alone
    finally:
        scheduler.close()


def test_graphs_decode_what_the_pass_they_record_decodes(engines):
    gpu, _ = engines
    rows = [
        (PROMPT[: 8 + place], Composition(weights={"positive": place / 9}), GREEDY) for place in range(40)
    ]
    texts = []
    for decode in (gpu.runner, gpu.runner._inner):
        batch = Batch(decode, gpu.snapshot.layout, frozenset(), slots=40, max_seq_len=128)
        batch.add([gpu.row(place, *row) for place, row in enumerate(rows)], gpu.snapshot.layout)
        for turn in range(12):
            batch.step()
            if turn == 6:
                batch.remove(range(30))  # another graph, for fewer rows
        texts.append({row.key: row.ids for row in batch.rows})
    assert texts[0] == texts[1]


def test_graphs_are_captured_while_other_threads_compute(engines):
    gpu, _ = engines
    done, faults = Event(), []

    def others() -> None:
        try:
            while not done.is_set():
                gpu.fusion(PROMPT)
        except Exception as fault:
            faults.append(fault)

    threads = [Thread(target=others) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):  # each a batch, a cache and graphs of its own
            assert list(gpu.generate(PROMPT, Composition(weights=WEIGHTS), GREEDY))[-1].text
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not faults


def test_contributions_of_a_large_batch_equal_the_cpus(engines):
    gpu, cpu = engines
    scheduler = Scheduler(gpu, slots=32)
    try:
        threads, served = [], {}

        def person(place: int) -> None:
            composition = Composition(weights={"positive": place / 20, "sports": 1.0})
            served[place] = list(scheduler.generate(PROMPT, composition, replace(GREEDY, max_new_tokens=8)))

        threads = [Thread(target=person, args=(place,)) for place in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        scheduler.close()
    assert sorted(served) == list(range(40))
    assert all(len(steps) == 8 for steps in served.values())
    alone = next(cpu.generate(PROMPT, Composition(weights={"positive": 1.0, "sports": 1.0}), GREEDY))
    np.testing.assert_allclose(served[20][0].contribution, alone.contribution, rtol=0.02, atol=1e-4)


def test_insight_reads_on_a_gpu_what_it_reads_on_a_cpu(engines):
    gpu, cpu = (explain(engine, PROMPT, Composition(weights=WEIGHTS), GREEDY) for engine in engines)
    assert gpu.text == cpu.text


@pytest.mark.parametrize(
    ("dtype", "quantization"), [("bfloat16", "none"), ("bfloat16", "nf4"), ("float16", "int8")]
)
def test_smaller_types_decode_and_still_follow_the_sliders(dtype, quantization):
    engine = typed(dtype, quantization)
    plain, sports = (
        list(engine.generate(PROMPT, Composition(weights=weights), GREEDY))
        for weights in ({}, {"sports": 1.0})
    )
    assert plain[-1].text.strip() and sports[-1].text.strip() and plain[-1].text != sports[-1].text
    assert np.isfinite(sports[0].contribution).all() and sports[0].contribution.max() > 0
    assert not plain[0].contribution.any()


# --- graphs, pooled memory and compiled layers ---------------------------------------------------


def graph_runner(engine: Engine) -> CudaGraphRunner:
    """The engine's own runner, or one over its passes where it decodes without graphs."""
    made = engine.runner
    return made if isinstance(made, CudaGraphRunner) else CudaGraphRunner(made)


def greedy(
    engine: Engine, runner, count: int, steps: int = 16, seed: int = 0, routed: bool = False
) -> dict[int, list[int]]:
    """The ids of rows of unlike length and gates, decoded by one batch. routed: every other one by token."""
    layout = engine.snapshot.layout
    draw = np.random.default_rng(seed)
    part = np.ones(len(layout.bank.names), bool)
    rows = [
        BatchRow(
            key,
            draw.integers(5, 20000, 6 + 9 * key).tolist(),
            LogitMixture.one(draw.uniform(0, 1, (layout.layers, len(layout.bank.names)))),
            GREEDY,
            router=RouterConfig(part, 1.0, True, by_norm=key % 4 == 0) if routed and key % 2 == 0 else None,
        )
        for key in range(count)
    ]
    batch = Batch(runner, layout, frozenset(), slots=count, max_seq_len=2048)
    batch._cache = cache_for(runner, count, 2048)
    batch.add(rows, layout)
    for _ in range(steps):
        batch.step()
    return {row.key: row.ids for row in batch.rows}


@pytest.fixture(
    scope="module",
    params=[("float32", "none"), ("bfloat16", "none"), ("bfloat16", "nf4"), ("float16", "int8")],
)
def base(request) -> Engine:
    return typed(*request.param)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_graphs_give_the_texts_of_the_same_pass_uncaptured(base, count):
    graphs = graph_runner(base)
    graphed = greedy(base, graphs, count)
    uncaptured = CudaGraphRunner(graphs.inner, lambda run: run)
    assert graphs.captured and graphed == greedy(base, uncaptured, count)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_token_routed_rows_are_captured_too(base, count):
    graphs = graph_runner(base)
    graphed, before = greedy(base, graphs, count, routed=True), graphs.captured
    uncaptured = CudaGraphRunner(graphs.inner, lambda run: run)
    assert graphed == greedy(base, uncaptured, count, routed=True)
    greedy(base, graphs, count, seed=1, routed=True)
    assert graphs.captured == before


def test_a_second_text_replays_what_the_first_captured(base):
    graphs = graph_runner(base)
    greedy(base, graphs, 3)
    before = graphs.captured
    for seed in range(1, 4):
        greedy(base, graphs, 3, seed=seed)
    assert graphs.captured == before


def test_a_thousand_texts_take_no_more_memory_and_no_more_graphs(base):
    graphs = graph_runner(base)
    for seed in range(20):
        greedy(base, graphs, 1 + seed % 3, steps=2, seed=seed)
    torch.cuda.synchronize()
    captured, reserved = graphs.captured, torch.cuda.memory_reserved()
    for seed in range(1000):
        greedy(base, graphs, 1 + seed % 3, steps=2, seed=seed)
    torch.cuda.synchronize()
    assert graphs.captured == captured and graphs.pool.used == 0
    assert torch.cuda.memory_reserved() <= reserved * 1.01


def test_batches_of_two_threads_give_what_they_give_alone(base):
    graphs = graph_runner(base)
    alone = [greedy(base, graphs, 2, seed=seed) for seed in range(2)]
    found: dict[int, dict[int, list[int]]] = {}
    threads = [
        Thread(target=lambda seed=seed: found.update({seed: greedy(base, graphs, 2, seed=seed)}))
        for seed in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(2)] == alone


def test_compiled_and_captured_layers_give_nearly_the_same_logits(base):
    """Fused kernels round elsewhere, so logits are compared, and texts in float32 alone."""
    graphs = CudaGraphRunner(graph_runner(base).inner)
    plain = greedy(base, CudaGraphRunner(graphs.inner, lambda run: run), 3)
    assert warm_up(graphs, base.snapshot.layout)
    before = graphs.captured
    compiled = greedy(base, graphs, 3)
    assert graphs.captured == before, "the likely shapes are there"
    if base.base.dtype == torch.float32:
        assert compiled == plain
    same = sum(one == other for key in plain for one, other in zip(plain[key], compiled[key], strict=True))
    assert same >= 0.7 * sum(map(len, plain.values()))


def test_the_report_accounts_for_the_memory_that_is_taken(base):
    graphs = graph_runner(base)
    greedy(base, graphs, 1)
    found = runner_memory(base.model, graphs, base.snapshot.layout)
    assert found["base weights"] and found["KV pool"] and found["graphs"], in_words(found)
    assert sum(found.values()) <= torch.cuda.memory_reserved()


# --- 4-bit products ----------------------------------------------------------------------------


def nf4_layers(dtype: torch.dtype, features: int, widths: tuple[int, ...], bias: bool) -> list:
    made = []
    for width in widths:
        layer = bitsandbytes.nn.Linear4bit(
            features, width, bias=bias, compute_dtype=dtype, compress_statistics=True, quant_type="nf4"
        )
        made.append(layer.to("cuda").eval().requires_grad_(False))
    return made


def every_way(count: int) -> dict[str, products.Way]:
    """The kernels with each plan and each way of decoding."""
    return products._ours("shuffle", count) | products._ours("select", count)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("features", "widths", "rank", "bias"),
    [(4096, (4096, 1024, 1024), 48, False), (14336, (4096,), 16, False), (576, (1536, 1537), 3, True)],
)
def test_our_4_bit_kernels_give_bitsandbytes_product(dtype, features, widths, rank, bias):
    joint = stack(nf4_layers(dtype, features, widths, bias))
    own = None if joint.bias is None else joint.bias.to(dtype)
    A = torch.randn(rank, features, device="cuda").to(dtype)
    for rows in (1, 2, 3, 5, 8, 13, 16, 17, 31, 32):
        x = torch.randn(rows, features, device="cuda").to(dtype)
        scale = torch.rand(rows, rank, device="cuda").to(dtype)
        given = x, joint.packed, joint.absmax, A, own, scale
        expected = products.by_bitsandbytes(*given)
        for name, way in every_way(len(plans(rows, sum(widths), features))).items():
            assert not difference(way(*given), expected), f"{name}, {rows} rows"


@pytest.mark.parametrize("rows", [1, 2, 8, 32])
def test_a_4_bit_product_in_a_graph_is_the_product_outside(rows):
    """The chosen way and bitsandbytes', which dequantises for several rows; replayed with other inputs."""
    layers = nf4_layers(torch.bfloat16, 4096, (4096, 1024, 1024), False)
    fused = fuse_linears(layers, torch.randn(16, 4096, device="cuda").to(torch.bfloat16))
    assert isinstance(fused, Nf4Linear)
    given = fused._joint.packed, fused._joint.absmax, fused._A, None, None
    for run in (fused, lambda x: products.by_bitsandbytes(x, *given)):
        x = torch.randn(rows, 4096, device="cuda").to(torch.bfloat16)
        replay = CudaCapture(torch.device("cuda"))(lambda run=run, x=x: run(x))
        for _ in range(3):
            x.copy_(torch.randn_like(x))
            got = replay()
            for one, other in zip(got, run(x), strict=True):
                assert torch.equal(one, other)


def test_a_row_of_a_4_bit_product_does_not_depend_on_its_neighbours():
    layers = nf4_layers(torch.bfloat16, 4096, (4096,), False)
    fused = fuse_linears(layers, torch.randn(16, 4096, device="cuda").to(torch.bfloat16))
    x = torch.randn(32, 4096, device="cuda").to(torch.bfloat16)
    whole = fused(x)[0]
    for row in (0, 7, 31):
        other = torch.randn_like(x)
        other[row] = x[row]
        assert torch.equal(fused(other)[0][row], whole[row])


def test_a_7b_in_nf4_composes_two_adapters_as_peft_does_and_takes_what_was_estimated(tmp_path):
    """Mistral 7B's layers with random weights, made a layer at a time: 16 bits of all are never in memory."""
    spec = replace(load_catalog("adapters.yaml").base("mistral-7b"), adapters=(), attributes=())
    config = config_of("mistral-7b", bos_token_id=None, eos_token_id=258)
    base = random_nf4(config, "cuda")
    estimate = estimate_memory(config, spec)
    taken = memory_by_use({"weights": list(tensors_of(base))})["weights"]
    assert estimate.weights == pytest.approx(taken, rel=0.03)
    bare = with_same_parameters(base)
    engine = tiny.engine_of(base, name=spec.name, dtype=spec.dtype, quantization=spec.quantization)
    weights = {"first": 0.5, "second": 0.25}
    for seed, name in enumerate(weights, start=1):
        folder = save_adapter(tmp_path / name, config, seed)
        assert engine.add_adapter(str(folder), name=name).ok
    assert len(engine.model.sites) == 7 * 32
    ours, alone = (engine.next_token_logits(PROMPT, Composition(each)) for each in (weights, {}))
    assert len(list(engine.generate(PROMPT, Composition(weights), GREEDY))) > 1
    print(in_words(engine.memory()))
    reference = peft_logits(bare, tmp_path, weights, engine.base.encode(PROMPT))
    # What 32 layers of bfloat16 round differently is far less than what the adapters do.
    assert relative_distance(ours, reference) < 0.2 * relative_distance(reference, alone)

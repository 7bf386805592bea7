"""The decoding step as a graph: what replays it, what captures it anew, and that it gives the same texts."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from dataclasses import replace
from threading import Thread

import numpy as np
import pytest
import torch

from composer import Engine, Sampling
from composer.adapters.bank import AdapterBank
from composer.model.logit_mixture import LogitMixture
from composer.model.rank_layout import Layout
from composer.model.runtime.batch import Batch, BatchRow
from composer.model.runtime.cuda_graphs import SHORTEST_BUCKET, CudaGraphRunner, length_bucket, padded
from composer.model.runtime.graphs import routing
from composer.model.runtime.graphs.kv_pool import BLANK, BLOCK
from composer.model.runtime.graphs.opaque import OpaqueLinear
from composer.model.runtime.graphs.rank_padding import RankPadding
from composer.model.runtime.graphs.warm_up import compile_step, likely_shapes, warm_up
from composer.model.runtime.kv_cache import cache_for
from composer.model.runtime.token_routing import RouterConfig
from tests.tools import tiny
from tests.tools.tape import Tape

GREEDY = Sampling(max_new_tokens=400, temperature=0)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def engine(request, tmp_path_factory) -> Engine:
    family = request.param
    return tiny.engine(family, tiny.three_unlike(tmp_path_factory.mktemp(family), family))


@pytest.fixture(scope="module")
def alike(tmp_path_factory) -> Engine:
    """Four adapters with the same sites, of rank 3."""
    folder = tmp_path_factory.mktemp("alike")
    folders = {name: tiny.adapter(folder / name, "llama", seed, r=3) for seed, name in enumerate("abcd")}
    return tiny.engine("llama", folders)


def graphs_of(engine: Engine, tokens: int = 1024) -> tuple[CudaGraphRunner, Tape]:
    tape = Tape()
    return CudaGraphRunner(engine.runner.inner, tape, tokens), tape


def some(engine: Engine, names: Sequence[str]) -> Layout:
    """The layout of some of an engine's adapters."""
    bank = AdapterBank()
    for name in names:
        bank = bank.add(name, engine.snapshot.bank.adapter(name))
    return engine.model.layout(bank)


def row(layout: Layout, key: int, size: int = 5, on: float = 1.0) -> BatchRow:
    """A row of its own prompt and gates."""
    draw = np.random.default_rng(key)
    gates = draw.normal(size=(layout.layers, len(layout.bank.names))) * on
    return BatchRow(key, draw.integers(5, 200, size).tolist(), LogitMixture.one(gates), GREEDY)


class Listening:
    """A runner that keeps what its passes return."""

    def __init__(self, runner):
        self.heard: list = []
        self.prepare, self.read, self.run = runner.prepare, runner.read, runner

    def __call__(self, plan, inputs, cache):
        logits, telemetry = self.run(plan, inputs, cache)
        self.heard.append((logits, telemetry))
        return logits, telemetry


class Texts:
    """A batch, and what its passes return."""

    def __init__(self, runner, layout: Layout, slots: int = 4, max_seq_len: int = 2048):
        self.runner = Listening(runner)
        self.batch = Batch(self.runner, layout, frozenset(), slots, max_seq_len)
        self.batch._cache = cache_for(runner, slots, max_seq_len)

    def steps(self, count: int) -> dict[int, list[int]]:
        for _ in range(count):
            self.batch.step()
        return {row.key: row.ids for row in self.batch.rows}


def text(runner, layout: Layout, rows: Sequence[BatchRow], steps: int = 5) -> dict[int, list[int]]:
    texts = Texts(runner, layout, sum(len(row.mixture) for row in rows))
    texts.batch.add(rows, layout)
    return texts.steps(steps)


def test_texts_logits_and_telemetry_of_graphs_are_the_passes_own(engine):
    graphs, tape = graphs_of(engine)
    layout = engine.snapshot.layout
    for count in (1, 3, 8):
        ours, theirs = (Texts(runner, layout, count) for runner in (graphs, engine.runner))
        for each in (ours, theirs):
            each.batch.add([row(layout, key, 4 + key) for key in range(count)], layout)
        assert ours.steps(5) == theirs.steps(5)
        for (logits, telemetry), (others, reference) in zip(
            ours.runner.heard, theirs.runner.heard, strict=True
        ):
            torch.testing.assert_close(logits, others, atol=1e-4, rtol=0)
            torch.testing.assert_close(telemetry.coded, reference.coded, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(telemetry.energy, reference.energy, atol=1e-4, rtol=1e-3)
    assert tape.captures == 3 and tape.replays == 15


def test_prompts_are_read_as_the_pass_reads_them(engine):
    graphs, _ = graphs_of(engine)
    layout = engine.snapshot.layout
    gates = torch.randn(3, layout.layers, 3)
    ids = [list(range(5, 5 + size)) for size in (3, 80, 9)]
    ours, theirs = (runner.read(layout, gates, ids) for runner in (graphs, engine.runner))
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.telemetry.coded, theirs.telemetry.coded, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(ours.past, theirs.past, atol=1e-3, rtol=1e-3)


def test_new_texts_and_other_weights_replay_what_is_there(engine):
    graphs, tape = graphs_of(engine)
    layout = engine.snapshot.layout
    for number in range(6):
        rows, others = ([row(layout, 10 * number + key) for key in range(3)] for _ in range(2))
        assert text(graphs, layout, rows) == text(engine.runner, layout, others)
        assert tape.captures == 1
    found = []
    for runner in (graphs, engine.runner):
        texts = Texts(runner, layout)
        texts.batch.add([row(layout, 1)], layout)
        texts.steps(2)
        texts.batch.rows[0].mixture = LogitMixture.one(-texts.batch.rows[0].mixture.gates[0])
        texts.batch._changed = True
        found.append((texts.steps(4), texts.runner.heard[-1][0]))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4, rtol=0)
    assert tape.captures == 2  # of one row, and none for the new gates


def test_other_adapters_of_the_same_summed_rank_replay_what_is_there(alike):
    graphs, tape = graphs_of(alike)
    captures = []
    # Summed ranks of 3 and 6 stand in 8 columns, 9 and 12 in 16. The last sets were there before.
    for names in ("a", "b", "cd", "", "abc", "abcd", "a", "cd"):
        layout = some(alike, names)
        ours, theirs = ([row(layout, 7), row(layout, 8, 9)] for _ in range(2))
        assert text(graphs, layout, ours) == text(alike.runner, layout, theirs), names
        captures.append(tape.captures)
    # The memory of 16 columns is larger, so what was captured on the smaller is captured once more.
    assert captures == [1, 1, 1, 2, 3, 3, 4, 4]
    layouts = [some(alike, names) for names in ("ab", "bc")]
    for turn in range(6):
        text(graphs, layouts[turn % 2], [row(layouts[turn % 2], 7), row(layouts[turn % 2], 8)])
    assert tape.captures == 4


def routed(layout: Layout, key: int, router: RouterConfig | None) -> BatchRow:
    return replace(row(layout, key), router=router)


def routes(count: int) -> list[RouterConfig | None]:
    """A router of each kind among so many adapters, and none."""
    every, some = np.ones(count, bool), np.arange(count) > 0
    return [
        RouterConfig(every, 1.0, True),
        None,
        RouterConfig(some, 0.4, False),
        RouterConfig(every, 1.0, True, by_norm=True, top=1),
    ]


def test_token_routed_rows_are_captured_and_give_what_the_pass_gives(engine):
    graphs, tape = graphs_of(engine)
    layout = engine.snapshot.layout
    for turn in range(3):
        own = routes(3)[turn:] + routes(3)[:turn]  # other rows have other routes
        ours, theirs = (Texts(runner, layout) for runner in (graphs, engine.runner))
        for each in (ours, theirs):
            each.batch.add([routed(layout, 10 * turn + key, kind) for key, kind in enumerate(own)], layout)
        assert ours.steps(5) == theirs.steps(5)
        for one, other in zip(ours.runner.heard, theirs.runner.heard, strict=True):
            torch.testing.assert_close(one[0], other[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(one[1].coded, other[1].coded, atol=1e-4, rtol=1e-3)
        assert tape.captures == 1
    plain = [row(layout, key) for key in range(4)]
    assert text(graphs, layout, plain) == text(engine.runner, layout, [row(layout, key) for key in range(4)])
    assert tape.captures == 2  # rows that are not routed have a graph without scores


def test_routed_rows_of_other_adapters_replay_what_is_there(alike):
    graphs, tape = graphs_of(alike)
    for names in ("abc", "bcd", "abc", "abcd", "cab"):
        layout = some(alike, names)
        ours, theirs = ([routed(layout, 7, routes(len(names))[kind]) for kind in (0, 3, 1)] for _ in range(2))
        assert text(graphs, layout, ours) == text(alike.runner, layout, theirs), names
    assert tape.captures == 1


def test_routed_rows_wait_uncaptured_for_their_graph_in_the_background(engine):
    graphs, tape = graphs_of(engine)
    layout = engine.snapshot.layout
    with graphs.in_background([]) as queue:
        ours, theirs = ([routed(layout, 3, routes(3)[0]), row(layout, 4)] for _ in range(2))
        assert text(graphs, layout, ours) == text(engine.runner, layout, theirs)
        assert tape.captures == 0 and [shape.adapters for shape in queue] == [4]


def test_rows_routed_among_too_many_adapters_go_around_graphs(alike, monkeypatch):
    monkeypatch.setattr(routing, "ADAPTERS", (2,))
    graphs, tape = graphs_of(alike)
    layout = some(alike, "abc")
    ours, theirs = ([routed(layout, 3, routes(3)[0])] for _ in range(2))
    assert text(graphs, layout, ours) == text(alike.runner, layout, theirs)
    assert tape.captures == 0


def test_a_set_that_is_loaded_is_not_copied_again(alike, monkeypatch):
    graphs, _ = graphs_of(alike)
    layout, copies = some(alike, "ab"), []
    plainly = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda *args: copies.append(1) or plainly(*args))
    for _ in range(3):
        text(graphs, layout, [row(layout, 7)])
    assert len(copies) == 1


def test_hundreds_of_texts_leave_no_graph_no_block_and_no_tensor_behind(alike):
    graphs, tape = graphs_of(alike)
    layouts = [some(alike, names) for names in ("ab", "cd")]

    def generate(number: int) -> None:
        layout = layouts[number % 2]
        texts = Texts(graphs, layout, 2)
        texts.batch.add([row(layout, number)], layout)
        texts.steps(1)

    def size() -> tuple[int, int, int]:
        gc.collect()
        tensors = sum(type(each) is torch.Tensor for each in gc.get_objects())
        return tape.captures, graphs.pool.layers[0].shape[0], tensors

    for number in range(20):
        generate(number)
    captures, tokens, tensors = size()
    for number in range(250):
        generate(number)
    assert size()[:2] == (captures, tokens) and captures == 1
    assert size()[2] <= tensors + 5
    assert graphs.pool.used == 0


def test_batches_at_once_keep_to_their_own_blocks_and_adapters(alike):
    graphs, tape = graphs_of(alike)
    layouts = [some(alike, names) for names in ("ab", "cd", "d")]
    alone = [text(alike.runner, own, [row(own, key, 70)], 20) for key, own in enumerate(layouts)]
    running = [Texts(graphs, own, 1) for own in layouts]
    for key, (each, own) in enumerate(zip(running, layouts, strict=True)):
        each.batch.add([row(own, key, 70)], own)
    for _ in range(10):  # in turns
        for each in running:
            each.steps(1)
    threads = [Thread(target=each.steps, args=(10,)) for each in running]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.steps(0) for each in running] == alone
    assert tape.captures == 1
    held = [block for each in running for own in each.batch._cache._blocks for block in own]
    assert len(held) == len(set(held)) == graphs.pool.used


def test_a_row_gets_the_text_alone_that_it_gets_in_a_padded_batch(engine):
    graphs, _ = graphs_of(engine)
    layout = engine.snapshot.layout
    alone = {key: text(graphs, layout, [row(layout, key, 5 + key)], 12)[key] for key in range(5)}
    assert text(graphs, layout, [row(layout, key, 5 + key) for key in range(5)], 12) == alone


def test_rows_that_leave_give_their_blocks_to_those_that_come(engine):
    graphs, tape = graphs_of(engine, tokens=512)
    layout = engine.snapshot.layout
    ours, theirs = (Texts(runner, layout) for runner in (graphs, engine.runner))
    for each in (ours, theirs):
        each.batch.add([row(layout, key, 60) for key in range(4)], layout)
        each.steps(10)  # over the end of a block
        each.batch.remove([0, 2])
        each.steps(3)
        each.batch.add([row(layout, key, 40) for key in (5, 6)], layout)
    assert ours.steps(30) == theirs.steps(30)
    assert tape.captures == 2
    held = [own for own in ours.batch._cache._blocks if own]
    assert [len(own) for own in held] == [2] * 4 and graphs.pool.used == 8
    ours.batch.remove(range(7))
    assert graphs.pool.used == 0


def test_blocks_come_back_when_a_batch_is_dropped_or_fails(engine):
    graphs, _ = graphs_of(engine)
    layout = engine.snapshot.layout

    def broken_pass(*_):
        raise RuntimeError("the device is gone")

    dropped = Texts(graphs, layout)
    dropped.batch.add([row(layout, 1, 100)], layout)
    broken = Texts(graphs, layout)
    broken.runner.run = broken_pass
    broken.batch.add([row(layout, 2, 100)], layout)
    with pytest.raises(RuntimeError):
        broken.steps(1)
    assert graphs.pool.used == 4
    del dropped, broken
    gc.collect()
    assert graphs.pool.used == 0

    full = Texts(graphs, layout, slots=2, max_seq_len=128)
    full.batch.add([row(layout, 3, 100)], layout)
    with pytest.raises(ValueError, match="no room"):
        full.batch.add([row(layout, 4, 129)], layout)
    assert graphs.pool.used == 2 and len(full.batch.rows) == 1


def test_an_arena_that_grows_keeps_the_texts_under_way(engine):
    graphs, tape = graphs_of(engine, tokens=2 * BLOCK)
    layout = engine.snapshot.layout
    ours, theirs = (Texts(runner, layout) for runner in (graphs, engine.runner))
    for each in (ours, theirs):
        each.batch.add([row(layout, 1, 60)], layout)
        each.steps(3)
    before = graphs.pool.version
    for each in (ours, theirs):
        each.batch.add([row(layout, 2, 100)], layout)
    assert graphs.pool.version > before
    assert ours.steps(20) == theirs.steps(20)
    assert tape.captures == 2 and graphs.graphs == 1


def test_a_text_that_outgrows_a_reach_goes_on_in_the_next_graph(engine):
    graphs, tape = graphs_of(engine)
    layout = engine.snapshot.layout
    ours, theirs = ([row(layout, 1, SHORTEST_BUCKET - 3)] for _ in range(2))
    assert text(graphs, layout, ours, 10) == text(engine.runner, layout, theirs, 10)
    assert tape.captures == 2


def test_numbers_that_overflow_reach_nobody_else(engine):
    graphs, _ = graphs_of(engine, tokens=4 * BLOCK)
    layout = engine.snapshot.layout
    expected = text(graphs, layout, [row(layout, 1), row(layout, 2)])
    texts = Texts(graphs, layout)
    texts.batch.add([row(layout, 1), row(layout, 2), row(layout, 3, 70)], layout)
    texts.batch.rows[2].mixture = LogitMixture.one(np.full_like(texts.batch.rows[2].mixture.gates[0], 1e30))
    texts.batch._changed = True
    assert texts.steps(5) == expected  # the third row fails and is removed
    gc.collect()
    assert text(graphs, layout, [row(layout, 1), row(layout, 2)]) == expected
    blank = slice(BLANK * BLOCK, (BLANK + 1) * BLOCK)
    assert not any(layer[blank].any() for layer in graphs.pool.layers)


def test_a_capture_that_fails_changes_no_text(engine, caplog):
    def capture(run):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    graphs, layout = CudaGraphRunner(engine.runner.inner, capture), engine.snapshot.layout
    ours, theirs = ([row(layout, 1), row(layout, 2)] for _ in range(2))
    with caplog.at_level(logging.WARNING):
        assert text(graphs, layout, ours) == text(engine.runner, layout, theirs)
    assert len(caplog.records) == 1 and "not permitted" in caplog.text and "and more" not in caplog.text


def test_a_layer_that_waits_for_the_host_is_not_captured(engine):
    layer = engine.model.model.get_submodule(next(iter(engine.model.sites))).base
    layer.state = type("MatmulLtState", (), {"threshold": 6.0})()
    try:
        graphs, tape = graphs_of(engine)
        layout = engine.snapshot.layout
        text(graphs, layout, [row(layout, 1)])
    finally:
        del layer.state
    assert not tape.captures


def test_a_shape_that_is_missing_is_captured_in_the_background_before_others(engine):
    graphs, tape = graphs_of(engine)
    layout = engine.snapshot.layout
    first = graphs.shape(layout, 1, 1)
    ours, theirs = ([row(layout, key) for key in range(3)] for _ in range(2))
    with graphs.in_background([first]) as queue:
        assert text(graphs, layout, ours) == text(engine.runner, layout, theirs)
        assert not tape.captures and list(queue) == [graphs.shape(layout, 3, 1), first]
        while queue:
            assert graphs.outdated(queue[0])
            graphs.record(queue.popleft())
    again = [row(layout, key) for key in range(3)]
    assert text(graphs, layout, again) == text(engine.runner, layout, [row(layout, key) for key in range(3)])
    assert tape.captures == 2 and tape.replays == 5


def test_shapes_of_any_of_the_adapters_are_captured_the_likeliest_first(alike):
    layout = alike.snapshot.layout
    shapes = likely_shapes(layout, (1, 2))
    assert (shapes[0].bucket.rank, shapes[0].rows, shapes[0].length) == (8, 1, SHORTEST_BUCKET)
    assert {shape.bucket.rank for shape in shapes} == {0, 8, 16} and len(shapes) == len(set(shapes))
    for names in ("", "a", "bd", "abcd"):
        padding = RankPadding.of(some(alike, names))
        assert padding.bucket in {shape.bucket for shape in shapes}
    graphs, tape = graphs_of(alike)
    warm_up(graphs, layout, compiling=False)
    before = tape.captures
    for names in ("", "a", "bd", "abcd"):
        text(graphs, some(alike, names), [row(some(alike, names), 3)])
    assert tape.captures == before


@pytest.mark.parametrize("weights", ["same", "apart"])
def test_compiled_layers_give_the_same_texts(engine, weights):
    """apart: layers that the compiler does not look into, as bitsandbytes' are."""
    if engine.base.spec.name != "llama":
        return
    inner = engine.runner.inner if weights == "same" else engine.runner.trial()
    graphs, layout = CudaGraphRunner(inner, lambda run: run), engine.snapshot.layout
    bare = graphs._buffers._bare.layers[0].qkv_proj.product
    assert isinstance(bare, OpaqueLinear) == (weights == "apart")
    shapes = [graphs.shape(layout, rows, 1) for rows in (1, 3)]
    torch._dynamo.reset()
    for shape in shapes:
        graphs.use(compile_step(graphs.adapters(shape), graphs.pool, min(shape.rows, 2), graphs.compiled))
    for captured in (True, False):
        for count in (1, 3, 5):
            ours, theirs = ([row(layout, key, 4 + key) for key in range(count)] for _ in range(2))
            if captured:
                texts = text(graphs, layout, ours, 80)
            else:
                with graphs.in_background([]):
                    graphs._graphs.clear()
                    texts = text(graphs, layout, ours, 80)
            assert texts == text(inner, layout, theirs, 80)
    # Every layer is of one kind: two codes, and two of the logits, each compiled once.
    kinds = {layer.kind for layer in graphs.adapters(shapes[0]).table.layers}
    assert len(graphs.compiled) == 2 * (len(kinds) + 1)
    for run in graphs.compiled.values():
        code = run._torchdynamo_orig_callable.__code__
        assert len(torch._dynamo.eval_frame._debug_get_cache_entry_list(code)) == 1


def test_the_reach_of_graphs_doubles():
    assert [length_bucket(length) for length in (1, SHORTEST_BUCKET, SHORTEST_BUCKET + 1, 2000)] == [
        SHORTEST_BUCKET,
        SHORTEST_BUCKET,
        2 * SHORTEST_BUCKET,
        2048,
    ]


def test_many_rows_share_few_graphs():
    assert {padded(count) for count in range(33, 257)} == set(range(64, 257, 32))
    assert [padded(count) for count in (1, 3, 5, 32)] == [1, 4, 8, 32]

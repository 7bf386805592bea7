"""The decoding passes against the plain forward of the same model, and against one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer import Engine, Sampling
from composer.core.errors import ComposerError
from composer.model.gated_model import GateCall, GatedModel, TelemetryRecorder, gates_tensor
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.batch import Batch, BatchRow
from composer.model.runtime.compilation import Compilation
from composer.model.runtime.kv_cache import KVCache
from composer.model.runtime.llama.runner import LlamaRunner
from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.runner import TransformersRunner
from composer.model.runtime.select import select_runner
from tests.tools import tiny

GREEDY = Sampling(max_new_tokens=40, temperature=0)


def rows(layers: int, adapters: int) -> list[BatchRow]:
    """Three rows of unlike length and gates."""
    draw = np.random.default_rng(0)
    return [
        BatchRow(
            place, list(range(5, 5 + size)), LogitMixture.one(draw.normal(size=(layers, adapters))), GREEDY
        )
        for place, size in enumerate((3, 9, 6))
    ]


OWN = ("llama", "mistral", "qwen2", "qwen3", "gemma3")


@pytest.fixture(scope="module", params=OWN)
def engine(request, tmp_path_factory):
    family = request.param
    return tiny.engine(family, tiny.three_unlike(tmp_path_factory.mktemp(family), family))


def decoded(engine: Engine, decode, steps: int = 6):
    """Per pass the logits of all rows and the reading, after the rows' prompts were read."""
    layout = engine.snapshot.layout
    heard = []

    class Listening:
        prepare, read = staticmethod(decode.prepare), staticmethod(decode.read)

        def __call__(self, under, inputs, cache):
            logits, telemetry = decode(under, inputs, cache)
            heard.append((logits.clone(), telemetry))
            return logits, telemetry

    batch = Batch(Listening(), layout, frozenset(), slots=4, max_seq_len=128)
    batch.add(rows(engine.model.layers, len(engine.names)), layout)
    for _ in range(steps):
        batch.step()
    return batch, heard


def same(engine: Engine, one, other, atol: float) -> None:
    for (logits, telemetry), (others, reference) in zip(one, other, strict=True):
        torch.testing.assert_close(logits, others, atol=atol, rtol=0)
        mine, his = (engine.snapshot.contribution(each) for each in (telemetry, reference))
        torch.testing.assert_close(mine, his, atol=atol, rtol=1e-3)


def test_the_family_gets_its_own_pass_and_others_the_modules():
    assert all(isinstance(select_runner(GatedModel(tiny.model(family))), NativeRunner) for family in OWN)
    in_bfloat16 = tiny.model("llama").to(torch.bfloat16)
    assert isinstance(select_runner(GatedModel(in_bfloat16)), LlamaRunner)
    assert isinstance(select_runner(GatedModel(tiny.model("gpt_neox"))), TransformersRunner)


def test_the_llama_pass_decodes_as_the_modules_do(engine):
    batch, own = decoded(engine, engine.runner)
    modules, reference = decoded(engine, TransformersRunner(engine.model))
    assert [row.ids for row in batch.rows] == [row.ids for row in modules.rows]
    same(engine, own, reference, 1e-4)


def test_prompts_of_unlike_length_are_read_as_the_modules_read_them(engine):
    layout, some = engine.snapshot.layout, rows(engine.model.layers, len(engine.names))
    gates = gates_tensor([row.mixture.gates[0] for row in some], engine.base.device)
    ids = [row.ids for row in some]
    own, reference = (
        each.read(layout, gates, ids) for each in (engine.runner, TransformersRunner(engine.model))
    )
    same(engine, [(own.logits, own.telemetry)], [(reference.logits, reference.telemetry)], 1e-4)
    torch.testing.assert_close(own.hidden, reference.hidden, atol=1e-4, rtol=0)
    for mine, his in zip(own.past, reference.past, strict=True):
        for row, (mine_at, his_at) in enumerate(zip(own.starts, reference.starts, strict=True)):
            length = len(ids[row])
            torch.testing.assert_close(
                mine[row, :, mine_at : mine_at + length],
                his[row, :, his_at : his_at + length],
                atol=1e-4,
                rtol=0,
            )
    assert engine.runner.read(layout, gates, ids, unembed=False).logits is None


def test_every_decoded_token_is_the_plain_forwards_choice(engine):
    batch, heard = decoded(engine, engine.runner)
    for place, row in enumerate(batch.rows):
        recorder = TelemetryRecorder()
        call = GateCall(
            engine.snapshot.layout, gates_tensor(row.mixture.gates, engine.base.device), recorder=recorder
        )
        full = engine.model(call, input_ids=torch.tensor([row.ids[:-1]]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(heard[-1][0][place], full, atol=1e-4, rtol=0)


def test_rows_that_leave_take_nothing_of_the_others_along(engine):
    layout = engine.snapshot.layout
    whole, _ = decoded(engine, engine.runner, steps=8)
    batch, _ = decoded(engine, engine.runner, steps=3)
    batch.remove([0])
    late = rows(engine.model.layers, len(engine.names))[1]
    late.key = "late"
    batch.add([late], layout)
    for _ in range(5):
        batch.step()
    expected = {row.key: row.ids for row in whole.rows}
    assert {row.key: row.ids for row in batch.rows} == {
        1: expected[1],
        2: expected[2],
        "late": expected[1][: len(late.ids)],
    }


@pytest.mark.parametrize(("family", "weights"), [("gpt_neox", "int8"), ("llama", "int4"), ("llama", None)])
def test_weights_that_cannot_be_are_refused_in_a_sentence(family, weights):
    with pytest.raises(ComposerError, match="int8"):
        select_runner(GatedModel(tiny.model(family)), weights)


def test_a_fresh_cache_costs_no_memory_until_it_is_written():
    import psutil

    before = psutil.Process().memory_info().rss
    cache = KVCache(32, 2048)
    cache.buffers = [cache.zeros(6, 64, torch.zeros(1)) for _ in range(30)]
    assert float(cache.buffers[3][5, 2, 7].sum()) == 0
    assert psutil.Process().memory_info().rss - before < 200e6  # they would take 3 GB
    for buffer in cache.buffers:
        buffer[:, :, :8] = 1  # the beginning of every row, as short texts have it
    assert psutil.Process().memory_info().rss - before < 200e6


def test_a_growing_cache_gives_the_same_texts_and_is_as_long_as_they_are():
    engine = tiny.engine("gpt_neox", {})
    layout, found = engine.snapshot.layout, []
    for cache in (KVCache(4, 2048), KVCache(4, 2048, growing=True)):
        batch = Batch(engine.runner, layout, frozenset(), slots=4, max_seq_len=2048)
        batch._cache = cache
        batch.add([BatchRow(0, list(range(5, 200)), LogitMixture.one(np.zeros((3, 0))), GREEDY)], layout)
        for _ in range(65):
            batch.step()
        batch.remove([0])
        batch.add(rows(engine.model.layers, 0), layout)
        batch.step()
        assert not any(buffer[3:].any() for buffer in cache.buffers)
        found.append([row.ids for row in batch.rows])
    assert found[0] == found[1] and cache.buffers[0].shape[2] == 512


def test_there_is_nothing_to_compile_outside_the_families():
    engine = tiny.engine("gpt_neox", {})
    assert not Compilation(engine.runner, engine.snapshot.layout).wait()

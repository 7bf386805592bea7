"""The decoding step as a graph: what replays it, what captures it anew, and that it says what the pass says."""

from __future__ import annotations

import gc
from dataclasses import replace
from threading import Barrier, Thread

import numpy as np
import pytest
import torch

from composer import Composition, Engine, Sampling
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.batch import Batch, BatchRow
from composer.model.runtime.cuda_graphs import SHORTEST_BUCKET, CudaGraphRunner, length_bucket, padded
from composer.model.runtime.graphs.kv_pool import BLOCK
from composer.model.runtime.kv_cache import cache_for
from tests.tools import tiny
from tests.tools.tape import Tape

GREEDY = Sampling(max_new_tokens=40, temperature=0)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def engine(request, tmp_path_factory) -> Engine:
    family = request.param
    return tiny.engine(family, tiny.three_unlike(tmp_path_factory.mktemp(family), family))


def graphs_of(engine: Engine, tokens: int = 1024) -> tuple[CudaGraphRunner, Tape]:
    tape = Tape()
    return CudaGraphRunner(engine.runner, tape, tokens), tape


def row(engine: Engine, key: int, size: int = 5, on: float = 1.0, seed: int | None = None) -> BatchRow:
    """A row of its own prompt and gates."""
    draw = np.random.default_rng(key if seed is None else seed)
    gates = draw.normal(size=(engine.model.layers, len(engine.names))) * on
    return BatchRow(key, draw.integers(5, 200, size).tolist(), LogitMixture.one(gates), GREEDY)


def batch_of(engine: Engine, runner, slots: int = 4, max_seq_len: int = 2048) -> Batch:
    batch = Batch(runner, engine.snapshot.layout, frozenset(), slots, max_seq_len)
    batch._cache = cache_for(runner, slots, max_seq_len)
    return batch


def text(engine: Engine, runner, rows, steps: int = 5) -> dict[int, list[int]]:
    batch = batch_of(engine, runner, len(rows))
    batch.add(rows, engine.snapshot.layout)
    for _ in range(steps):
        batch.step()
    return {row.key: row.ids for row in batch.rows}


def test_a_text_of_graphs_is_the_passes_own(engine):
    graphs, tape = graphs_of(engine)
    for count in (1, 3, 8):
        rows, others = ([row(engine, key, 4 + key) for key in range(count)] for _ in range(2))
        assert text(engine, graphs, rows) == text(engine, engine.runner, others)
    assert tape.captures == 3 and tape.replays == 15

"""Rows of several voices in one batch: their slots, their logits and their ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer import Engine, Sampling
from composer.model.logit_combiner import LogitCombiner
from composer.model.logit_mixture import LogitMixture, rows_per_pass
from composer.model.runtime.batch import Batch, BatchRow
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.runner import TransformersRunner
from tests.tools import tiny

CPU = torch.device("cpu")


def gates(*columns: float) -> np.ndarray:
    return np.tile(np.array(columns, np.float32), (2, 1))


def test_equal_branches_are_merged_and_zero_coefficients_dropped():
    made = LogitMixture.of(
        [-0.5, 0.25, 1.0, 0.0, 0.25], [gates(0, 0), gates(1, 0), gates(0, 1), gates(2, 0), gates(1, -0.0)]
    )
    assert made.mix.tolist() == [-0.5, 0.5, 1.0]
    np.testing.assert_array_equal(made.gates, [gates(0, 0), gates(1, 0), gates(0, 1)])
    np.testing.assert_array_equal(made.overall, gates(0.5, 1))


def test_shares_that_cancel_up_to_rounding_are_none():
    made = LogitMixture.of([1 - (0.1 + 0.2 + 0.7), 0.1 + 0.2 + 0.7], [gates(0), gates(1)])
    assert len(made) == 1 and made.gates.all()


def test_a_branch_contributes_by_its_coefficient():
    made = LogitMixture(np.array([2.0, -1.0]), np.stack([gates(1, 0), gates(0, 1)]))
    np.testing.assert_array_equal(made.together(np.ones((2, 2, 2))), np.full((2, 2), 3))
    one = np.random.default_rng(0).normal(size=(1, 2, 2))
    np.testing.assert_array_equal(LogitMixture.one(gates(1, 0)).together(one), one[0])


def test_rows_of_one_branch_get_their_logits_unchanged():
    logits = torch.randn(2, 5)
    assert LogitCombiner([LogitMixture.one(gates(1))] * 2, CPU)(logits) is logits


def test_branches_are_found_in_any_slot_and_other_slots_are_unchanged():
    rows = [LogitMixture(np.array([3.0, -2.0]), np.stack([gates(1), gates(0)])), LogitMixture.one(gates(2))]
    logits = torch.randn(3, 5)
    logits[1, 2] = torch.inf  # what is none of a row's business does not reach it
    got = LogitCombiner(rows, CPU, [2, 0, 1])(logits)
    torch.testing.assert_close(got[0], 3 * logits[2] - 2 * logits[0])
    assert torch.equal(got[1], logits[1])


def test_half_precision_is_mixed_in_single():
    halves = torch.tensor([[1000.0], [1001.0]], dtype=torch.float16)
    mixed = LogitCombiner([LogitMixture(np.array([-0.25, 1.25]), np.zeros((2, 1, 1)))], CPU)(halves)
    assert mixed.dtype == torch.float32 and mixed.item() == 1001.25


def test_rows_per_pass_counts_branches_and_is_at_least_one():
    three, one = LogitMixture(np.full(3, 1 / 3), np.zeros((3, 1, 1))), LogitMixture.one(np.zeros((1, 1)))
    assert [rows_per_pass([one, three, one], limit) for limit in (0, 1, 3, 4, 5, 9)] == [1, 1, 1, 2, 3, 3]
    assert rows_per_pass([three, one], 1) == 1


def record(run):
    """A graph that is no graph: it runs what it was given."""
    return run


PASSES = {
    "llama": lambda engine: engine.runner,
    "llama, by its modules": lambda engine: TransformersRunner(engine.model),
    "llama, as graphs": lambda engine: CudaGraphRunner(engine.runner.inner, record),
    "gemma3": lambda engine: engine.runner,
}


@pytest.fixture(scope="module", params=PASSES)
def engine(request, tmp_path_factory) -> Engine:
    family = request.param.partition(",")[0]
    made = tiny.engine(family, tiny.three_unlike(tmp_path_factory.mktemp(family), family))
    made.runner = PASSES[request.param](made)
    return made


def row(engine: Engine, key: int, mixture: int, size: int = 5) -> BatchRow:
    """A row of its own prompt and gates; its tokens depend on nothing else."""
    draw = np.random.default_rng(key)
    own = draw.normal(size=(mixture, engine.model.layers, len(engine.names)))
    mix = np.append(draw.normal(size=mixture - 1), 0)
    mix[-1] = 1 - mix.sum()
    ids = draw.integers(5, 200, size).tolist()
    return BatchRow(key, ids, LogitMixture(mix, own), Sampling(max_new_tokens=60, seed=key))


def batch_of(engine: Engine, slots: int) -> Batch:
    return Batch(engine.runner, engine.snapshot.layout, frozenset(), slots, max_seq_len=128)


def alone(engine: Engine, key: int, mixture: int, size: int, steps: int) -> list[int]:
    batch = batch_of(engine, mixture)
    batch.add([row(engine, key, mixture, size)], engine.snapshot.layout)
    for _ in range(steps):
        batch.step()
    return batch.rows[0].ids


@pytest.mark.parametrize("leaving", [[0], [1], [2], [3], [0, 2], [1, 3]])
def test_rows_are_added_and_removed_with_all_their_branches(engine, leaving):
    sizes = {0: (1, 4), 1: (3, 7), 2: (2, 5), 3: (1, 9), 4: (3, 6)}
    batch = batch_of(engine, 10)
    layout = engine.snapshot.layout
    batch.add([row(engine, key, *sizes[key]) for key in range(4)], layout)
    assert [own.key for own in batch.rows] == [0, 1, 2, 3]
    for _ in range(4):
        batch.step()
    batch.remove(leaving)
    batch.add([row(engine, 4, *sizes[4])], layout, engine.snapshot.contribution)
    for _ in range(5):
        drawn, shares = batch.step()
    assert {own.key for own in batch.rows} == {*range(5)} - {*leaving}
    places = [place for each in drawn for place in each.slots]
    assert sorted(places) == list(range(sum(sizes[own.key][0] for own in batch.rows)))
    assert len(shares) == len(places)
    for own in batch.rows:
        steps = 5 if own.key == 4 else 9
        assert own.ids == alone(engine, own.key, *sizes[own.key], steps)


def test_slots_are_free_again_when_their_row_has_left(engine):
    batch, layout = batch_of(engine, 3), engine.snapshot.layout
    for key in range(4):
        batch.add([row(engine, key, 3)], layout)
        batch.step()
        assert batch.rows[0].ids == alone(engine, key, 3, 5, 1)
        batch.remove([key])
        assert batch.rows == []

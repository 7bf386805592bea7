"""Overlaps of subspaces that are known, and Pico's collision by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer.adapters.bank import AdapterBank, LoraFactors
from composer.analysis.subspace_overlap import Subspaces, collision, compare_subspaces
from tests.analysis import toys


def compare(bank: AdapterBank) -> Subspaces:
    return compare_subspaces(bank, toys.LAYER_OF, toys.LAYERS)


def at_q(a: torch.Tensor, b: torch.Tensor) -> dict[str, LoraFactors]:
    return {toys.Q: LoraFactors(a, b, 1.0)}


def test_identical_adapters_overlap_wholly_however_they_are_written():
    own = toys.adapter(1, 3)
    got = compare(toys.bank(a=own, b=toys.refactored(own)))
    np.testing.assert_allclose(got.reads[:2], 1, atol=1e-5)
    np.testing.assert_allclose(got.writes[:2], 1, atol=1e-5)
    assert np.isnan(got.reads[2]).all() and np.isnan(got.collision[2])


def test_orthogonal_and_nested_subspaces():
    a, b = torch.eye(10), torch.eye(12)
    first = at_q(a[:2], b[:, :2])
    apart = at_q(a[2:5], b[:, 2:5])
    wider = at_q(a[:4], b[:, :4])
    got = compare(toys.bank(first=first, apart=apart, wider=wider))
    np.testing.assert_allclose(got.reads[0], [[1, 0, 1], [0, 1, 2 / 3], [1, 2 / 3, 1]], atol=1e-6)
    np.testing.assert_allclose(got.writes[0], got.reads[0], atol=1e-6)
    assert got.reads_chance[0, 0, 1] == pytest.approx(3 / 10)
    assert got.writes_chance[0, 0, 1] == pytest.approx(3 / 12)


def test_other_factors_of_the_same_change_change_nothing():
    one, two = toys.adapter(1, 3), toys.adapter(50, 2)
    before, after = compare(toys.bank(a=one, b=two)), compare(toys.bank(a=toys.refactored(one), b=two))
    np.testing.assert_allclose(after.reads, before.reads, atol=1e-5)
    np.testing.assert_allclose(after.writes, before.writes, atol=1e-5)


def test_chance_is_what_random_subspaces_give():
    seen = [
        compare(toys.bank(a=toys.adapter(seed, 2, [toys.K]), b=toys.adapter(seed + 999, 3, [toys.K])))
        for seed in range(200)
    ]
    for name in ("reads", "writes"):
        mean = np.mean([getattr(each, name)[0, 0, 1] for each in seen])
        assert mean == pytest.approx(getattr(seen[0], f"{name}_chance")[0, 0, 1], rel=0.1)


def test_columns_that_depend_on_each_other_span_less():
    line = torch.eye(12)[:, :1]
    twice = at_q(torch.eye(10)[:2], torch.cat([line, line], dim=1))
    other = at_q(torch.eye(10)[:2], torch.eye(12)[:, 1:3])
    got = compare(toys.bank(twice=twice, other=other))
    assert got.writes[0, 0, 0] == pytest.approx(1)
    assert got.writes[0, 0, 1] == pytest.approx(0, abs=1e-6)
    silent = compare(toys.bank(silent=at_q(torch.eye(10)[:2], torch.zeros(12, 2)), other=other))
    assert np.isnan(silent.writes[0, 0]).all() and silent.reads[0, 0, 1] == pytest.approx(1)


def test_collision_is_the_share_of_the_largest_direction():
    # Three unit columns, two of them the same: singular values squared are 2 and 1.
    b = torch.eye(12)
    crowded = toys.bank(a=at_q(torch.ones(1, 10), b[:, :1]), b=at_q(torch.ones(2, 10), b[:, :2]))
    assert collision(crowded.sites[toys.Q]) == pytest.approx(2 / 3)
    assert compare(crowded).collision[0] == pytest.approx(2 / 3)
    third = toys.bank(
        a=at_q(torch.ones(1, 10), b[:, :1]),
        b=at_q(torch.ones(2, 10), b[:, :2]),
        c=at_q(torch.ones(1, 10), b[:, 5:6]),
        silent=at_q(torch.ones(1, 10), 0 * b[:, :1]),
    )
    pairs = compare(third).collisions[0]
    np.testing.assert_allclose(pairs[0, 1:3], [2 / 3, 1 / 2], atol=1e-6)
    np.testing.assert_array_equal(pairs, pairs.T)
    assert pairs[1, 2] == pytest.approx(1 / 3) and np.isnan(pairs[3]).all() and np.isnan(np.diag(pairs)).all()
    line = toys.bank(a=at_q(torch.ones(1, 10), b[:, :1]), b=at_q(torch.ones(1, 10), 5 * b[:, :1]))
    assert collision(line.sites[toys.Q]) == pytest.approx(1)


def test_one_adapter_has_no_collision():
    got = compare(toys.bank(a=toys.adapter(1, 2)))
    assert np.isnan(got.collision).all() and got.reads[0, 0, 0] == pytest.approx(1)
    assert compare(AdapterBank()).reads.shape == (toys.LAYERS, 0, 0)

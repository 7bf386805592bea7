"""Cosines and norms from factors against the changes written out in full."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer.adapters.bank import AdapterBank, LoraFactors
from composer.analysis.weight_deltas import Deltas, compare_deltas
from tests.analysis import toys

ONE, TWO, HALF = (
    toys.adapter(1, 3, scaling=2.0),
    toys.adapter(50, 2, scaling=0.5),
    toys.adapter(90, 4, [toys.K]),
)


def compare(bank: AdapterBank) -> Deltas:
    return compare_deltas(bank, toys.LAYER_OF, toys.LAYERS, {toys.Q: 3.0, toys.K: 4.0, toys.UP: 2.0})


def test_cosine_and_norm_are_those_of_the_changes_written_out():
    got, own = compare(toys.bank(one=ONE, two=TWO, half=HALF)), [ONE, TWO, HALF]
    for layer in range(2):
        for i, a in enumerate(own):
            assert got.norm[layer, i] == pytest.approx(np.linalg.norm(toys.dense(a, layer)), rel=1e-6)
            for j, b in enumerate(own):
                x, y = toys.dense(a, layer), toys.dense(b, layer)
                if x.any() and y.any():
                    assert got.cosine[layer, i, j] == pytest.approx(toys.cosine(x, y), abs=1e-9)
                else:
                    assert np.isnan(got.cosine[layer, i, j])
    assert np.isnan(got.cosine[2]).all() and (got.norm[2] == 0).all()


def test_shares_and_ratios_take_an_adapters_own_sites():
    got = compare(toys.bank(one=ONE, half=HALF))
    np.testing.assert_allclose(got.relative[0], got.norm[0] / [5, 4])
    assert np.isnan(got.relative[1, 1]) and np.isnan(got.relative[2]).all()
    whole = np.linalg.norm(got.norm, axis=0)
    assert got.ratio[0, 1] == pytest.approx(whole[0] / whole[1])
    assert got.ratio[0, 1] * got.ratio[1, 0] == pytest.approx(1)


def test_rms_is_over_the_sites_both_have():
    got = compare(toys.bank(one=ONE, half=HALF))
    k = {toys.K: ONE[toys.K]}
    assert got.rms[0, 1] == pytest.approx(abs(toys.cosine(toys.dense(k, 0), toys.dense(HALF, 0))))
    assert got.chance[0, 1] == pytest.approx(1 / np.sqrt(np.prod(toys.WIDTHS[toys.K])))
    whole = [np.concatenate([toys.dense(own, layer) for layer in range(toys.LAYERS)]) for own in (ONE, HALF)]
    assert got.overall[0, 1] == pytest.approx(toys.cosine(*whole))
    apart = compare(toys.bank(a=toys.adapter(1, 2, [toys.Q]), b=toys.adapter(2, 2, [toys.UP])))
    assert np.isnan(apart.rms[0, 1]) and np.isnan(apart.cosine[0, 0, 1])


def test_chance_is_what_random_turns_give():
    cosines = [
        compare(
            toys.bank(
                a={toys.K: toys.factors(seed, 2, toys.K)}, b={toys.K: toys.factors(seed + 999, 3, toys.K)}
            )
        )
        for seed in range(300)
    ]
    seen = np.sqrt(np.mean([each.rms[0, 1] ** 2 for each in cosines]))
    assert seen == pytest.approx(cosines[0].chance[0, 1], rel=0.15)


def test_an_adapter_agrees_with_itself_and_fights_its_negative():
    negative = {path: LoraFactors(own.A, -own.B, own.scaling) for path, own in ONE.items()}
    got = compare(toys.bank(a=ONE, same=toys.refactored(ONE), negative=negative))
    np.testing.assert_allclose(got.cosine[:2, 0], [[1, 1, -1]] * 2, atol=1e-5)
    assert got.ratio[0, 1] == pytest.approx(1, abs=1e-5)


def test_orthogonal_changes_have_cosine_zero():
    a = {toys.Q: LoraFactors(torch.eye(2, 10), torch.eye(12, 2), 1.0)}
    b = {toys.Q: LoraFactors(torch.eye(2, 10), torch.eye(12, 2).roll(2, 0), 1.0)}
    assert compare(toys.bank(a=a, b=b)).cosine[0, 0, 1] == 0


def test_no_adapter_is_no_fault():
    got = compare(AdapterBank())
    assert got.cosine.shape == (toys.LAYERS, 0, 0) and got.norm.shape == (toys.LAYERS, 0)

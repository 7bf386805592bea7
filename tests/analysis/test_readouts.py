"""Additivity, token owners, layer bands and signs, on numbers small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from composer.analysis.additivity import additivity
from composer.analysis.layer_ablation import divergence, leave_out
from composer.analysis.output_conflict import apply_gate_sign, leakage
from composer.analysis.token_attribution import NO_ADAPTER, Attribution

BASE, ALONE = np.array([1.0, 2.0, 3.0]), np.array([[2.0, 2.0, 3.0], [1.0, 0.0, 3.0]])


def test_additivity_is_one_where_changes_add_up():
    assert additivity(BASE, ALONE, np.array([2.0, 0.0, 3.0])) == 1
    assert additivity(BASE, ALONE[:1], ALONE[0]) == 1


def test_additivity_falls_with_what_the_parts_do_not_explain():
    assert additivity(BASE, ALONE[:1], np.array([2.0, 2.0, 4.0])) == pytest.approx(1 - 1 / np.sqrt(2))
    assert additivity(BASE, ALONE[:1], np.array([0.0, 2.0, 3.0])) == -1


def test_a_composition_that_changes_nothing_has_no_additivity():
    assert np.isnan(additivity(BASE, ALONE[:0], BASE))


def test_the_winner_raised_the_token_most():
    base = np.array([-3.0, -3.0, -3.0, -3.0])
    alone = np.array([[-1.0, -3.5, -3.0, -9.0], [-2.0, -2.0, -2.99999, -4.0]])
    read = Attribution(base, alone, base)
    assert read.winner.tolist() == [0, 1, NO_ADAPTER, NO_ADAPTER]
    np.testing.assert_allclose(read.raised[:, 0], [2, 1])


def test_without_adapters_no_adapter_wins():
    base = np.zeros(2)
    assert Attribution(base, np.zeros((0, 2)), base).winner.tolist() == [NO_ADAPTER, NO_ADAPTER]


def test_each_band_is_left_out_for_each_adapter_and_for_all():
    gates = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    got = leave_out(gates, np.array([0, 0, 1, 2]))  # [3, 3, 4, 2]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[0, 0], [[0, 2], [0, 4], [5, 6], [7, 8]])
    np.testing.assert_array_equal(got[1, 1], [[1, 2], [3, 4], [5, 0], [7, 8]])
    np.testing.assert_array_equal(got[2, 2], [[1, 2], [3, 4], [5, 6], [0, 0]])


def test_divergence_is_the_kl_of_the_softmaxes():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    got = divergence(np.log(p) + 3, np.stack([np.log(q) - 1, np.log(p) + 7]))
    np.testing.assert_allclose(got, [np.sum(p * np.log(p / q)), 0], atol=1e-12)
    assert (divergence(np.array([1e4, 0.0], np.float32), np.array([[0.0, 1e4]], np.float32)) > 9999).all()


def test_a_negative_gate_turns_an_output_round_and_a_zero_gate_leaves_none():
    cosine = np.tile([[1.0, 0.5], [0.5, 1.0]], (3, 1, 1))
    got = apply_gate_sign(cosine, np.array([[1.0, 2.0], [1.0, -0.1], [1.0, 0.0]]))
    np.testing.assert_array_equal(got[:, 0, 1], [0.5, -0.5, np.nan])
    np.testing.assert_array_equal(got[:, 0, 0], [1, 1, 1])


def test_leakage_is_beside_the_adapter_whose_pass_it_is():
    size = np.array([[[2.0, 1.0]], [[3.0, 4.0]]])  # [n, L, n]
    np.testing.assert_allclose(leakage(size), [[[1, 0.5], [0.75, 1]]])

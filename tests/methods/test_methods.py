"""Rules of mixing on numbers small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from composer.methods import METHODS, Question, fuse, gates
from composer.methods.registry import band_profile
from composer.spec import Composition

KL_NATS = np.array([[0.0, 0.0, 0.0], [1.0, 3.0, 0.0], [2.0, 2.0, 4.0]])


def ask(weights, method, layers=3, groups=(), kl=None, **dials):
    composition = Composition(method=method, **dials)
    question = Question(np.array(weights, float), layers, groups, composition, kl)
    return gates(METHODS[method], question)


def test_sum_is_the_slider_in_every_layer():
    np.testing.assert_array_equal(ask([1, -0.5], "sum"), [[1, -0.5]] * 3)


def test_strength_and_bands_multiply():
    got = ask([2.0], "sum", layers=6, strength=0.5, bands=(1, 0, -2))
    np.testing.assert_array_equal(got, [[1], [1], [0], [0], [-2], [-2]])


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7, 30])
def test_bands_are_thirds_in_order(layers):
    profile = band_profile((1, 2, 3), layers)
    assert len(profile) == layers
    assert (np.diff(profile) >= 0).all()
    assert layers < 3 or {*profile} == {1, 2, 3}


def test_contrast_of_a_pair_subtracts_the_other_pole():
    np.testing.assert_allclose(ask([1, 0, 0.5], "contrast", groups=((0, 1),)), [[1, -1, 0.5]] * 3)


def test_contrast_of_a_group_spreads_over_the_others():
    got = ask([0, 2, 0, 0], "contrast", groups=((0, 1, 2, 3),), contrast=0.75)
    np.testing.assert_allclose(got, [[-0.5, 2, -0.5, -0.5]] * 3)


def test_contrast_of_both_poles_at_once_cancels_what_they_share():
    np.testing.assert_allclose(ask([1, 1], "contrast", groups=((0, 1),)), 0)


def test_contrast_zero_is_the_sum():
    plain = ask([1, 0.3, -1], "sum")
    np.testing.assert_array_equal(ask([1, 0.3, -1], "contrast", groups=((0, 1), (1, 2)), contrast=0), plain)


def test_fusion_weights_are_a_plain_ratio_and_fall_back_to_equal_shares():
    fusion = fuse(KL_NATS)
    np.testing.assert_allclose(fusion.alpha, [[1 / 3] * 3, [0.25, 0.75, 0], [0.25, 0.25, 0.5]], atol=1e-6)
    assert fusion.undecided.tolist() == [True, False, False]


def test_only_adapters_that_take_part_share_the_weight():
    fusion = fuse(KL_NATS, np.array([True, False, True]))
    np.testing.assert_allclose(fusion.alpha, [[0.5, 0, 0.5], [1, 0, 0], [1 / 3, 0, 2 / 3]], atol=1e-6)


def test_kl_unit_keeps_a_mean_multiplier_of_one():
    got = ask([1, 1, 1], "kl", kl=KL_NATS)
    np.testing.assert_allclose(got.mean(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(got[1], [0.75, 2.25, 0], atol=1e-6)


def test_kl_paper_uses_alpha_itself():
    np.testing.assert_allclose(
        ask([1, 1, 1], "kl", kl=KL_NATS, scale="paper")[2], [0.25, 0.25, 0.5], atol=1e-6
    )


def test_kl_blend_moves_from_the_sum_to_fusion():
    got = ask([2, 1, 0], "kl", kl=KL_NATS, scale="paper", blend=0.5)[2]
    np.testing.assert_allclose(got, [2 * (0.5 + 0.25), 0.5 + 0.25, 0], atol=1e-6)


def test_kl_with_all_sliders_at_zero_is_the_base():
    np.testing.assert_array_equal(ask([0, 0, 0], "kl", kl=KL_NATS), np.zeros((3, 3)))


def test_every_method_explains_itself_and_leaves_weight_zero_alone():
    for name, method in METHODS.items():
        assert name == method.name
        assert method.help.endswith(".") and len(method.help) < 120
        assert method.source and method.label
        assert not ask([0, 0, 0], name, groups=((0, 1),), kl=KL_NATS).any()
        np.testing.assert_allclose(ask([0, 0.7, 0], name, groups=(), kl=np.ones((3, 3))), [[0, 0.7, 0]] * 3)

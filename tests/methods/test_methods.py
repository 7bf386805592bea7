"""Rules of mixing on numbers small enough to check by hand."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from composer.core.composition import Composition
from composer.methods import METHODS, GateInputs, PromptStats, fuse, logit_mixture
from composer.methods.base import band_profile
from composer.methods.fallback import agreement

KL_NATS = np.array([[0.0, 0.0, 0.0], [1.0, 3.0, 0.0], [2.0, 2.0, 4.0]])


def ask(weights, method, layers=3, groups=(), kl=None, prompt=None, **parameters):
    composition = Composition(method=method, **parameters)
    read = PromptStats(kl=kl) if prompt is None else prompt
    question = GateInputs(np.array(weights, float), layers, groups, composition, read)
    return logit_mixture(METHODS[method], question).overall


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


def test_every_method_explains_itself_and_names_what_there_is():
    for name, method in METHODS.items():
        assert name == method.name
        assert method.help.endswith(".") and len(method.help) < 120
        assert method.source and method.label and method.family
        assert {*method.parameters} <= {each.name for each in fields(Composition)}
        assert {*method.prompt_stats} <= {each.name for each in fields(PromptStats)}


def test_the_average_is_the_sum_over_those_who_take_part():
    np.testing.assert_allclose(ask([1, 0, 2], "average"), np.array(ask([1, 0, 2], "sum")) / 2)
    assert not ask([0, 0], "average").any()


def test_static_weights_add_up_to_one_whatever_the_sliders():
    np.testing.assert_allclose(ask([3, 0, 1], "static"), [[0.75, 0, 0.25]] * 3)
    np.testing.assert_allclose(np.abs(ask([-3, 1], "static")).sum(axis=1), 1)
    assert not ask([0, 0], "static").any()


def test_balanced_adapters_contribute_equally_and_as_much_as_before_together():
    share = np.array([[0.1, 0.3, 0.0], [0.2, 0.2, 0.0], [0.0, 0.4, 0.0]])
    got = ask([1, 1, 0], "balanced", prompt=PromptStats(contribution=share))
    contributed = got * share
    np.testing.assert_allclose(contributed[0, :2], 0.2, atol=1e-6)
    np.testing.assert_allclose(contributed[1, :2], 0.2, atol=1e-6)
    assert got[2].tolist() == [1, 1, 0]  # alone in a layer: nobody to be as loud as


def test_a_whisper_is_turned_up_four_times_at_most():
    got = ask([1, 1], "balanced", layers=1, prompt=PromptStats(contribution=np.array([[0.001, 1.0]])))
    assert got[0, 0] == 4


def test_kl_contrast_subtracts_from_the_fused_gates():
    fused = ask([1, 1, 1], "kl", kl=KL_NATS)
    got = ask([1, 1, 1], "kl-contrast", kl=KL_NATS, groups=((0, 1),), contrast=0.5)
    np.testing.assert_allclose(got[:, 0], fused[:, 0] - 0.5 * fused[:, 1], atol=1e-6)
    np.testing.assert_allclose(got[:, 2], fused[:, 2])
    np.testing.assert_array_equal(
        ask([1, 1, 1], "kl-contrast", kl=KL_NATS, groups=((0, 1),), contrast=0), fused
    )


def test_cosine_shares_by_distance_and_logo_by_one_number_an_adapter():
    shared = ask([1, 1, 1], "cosine", prompt=PromptStats(distance=KL_NATS))
    np.testing.assert_array_equal(shared, ask([1, 1, 1], "kl", kl=KL_NATS))
    got = ask([1, 1, 0], "logo", prompt=PromptStats(query_norm=np.array([1.0, 3.0, 0.0])), scale="paper")
    np.testing.assert_allclose(got, [[0.25, 0.75, 0]] * 3, atol=1e-6)


def test_perplexity_shares_by_the_inverse_perplexity_of_the_prompt():
    log = np.log(np.array([1 / 20, 1 / 60, 1.0]))  # perplexities 20, 60 and, of one with weight 0, 1
    got = ask([1, 1, 0], "perplexity", prompt=PromptStats(likelihood=log), scale="paper")
    np.testing.assert_allclose(got, [[0.75, 0.25, 0]] * 3, atol=1e-6)
    # Differences count, however unlikely the prompt is.
    unlikely = ask([1, 1, 0], "perplexity", prompt=PromptStats(likelihood=log - 1000), scale="paper")
    np.testing.assert_allclose(unlikely, got, atol=1e-6)
    halved = ask([1, 1, 0], "perplexity", prompt=PromptStats(likelihood=log), blend=0.5)
    np.testing.assert_allclose(halved, [[1.25, 0.75, 0]] * 3, atol=1e-6)


def test_dynamic_weights_by_the_divergence_up_to_one():
    read = PromptStats(next_token=np.array([0.5, 7.0, 3.0]))
    np.testing.assert_allclose(ask([1, -0.5, 0], "dynamic", prompt=read), [[0.5, -0.5, 0]] * 3)
    np.testing.assert_allclose(ask([1, -0.5, 0], "dynamic", prompt=read, blend=0.5), [[0.75, -0.5, 0]] * 3)
    np.testing.assert_array_equal(ask([1, -0.5, 0], "dynamic", prompt=read, blend=0), [[1, -0.5, 0]] * 3)


def test_kl_or_sum_is_kl_where_the_layers_agree_and_the_sum_elsewhere():
    agreed = np.array([[3.0, 1.0, 9.0], [2.0, 1.0, 9.0], [4.0, 1.0, 9.0], [1.0, 2.0, 9.0]])
    # Of four layers the first leads in three; an adapter with weight 0 leads nowhere.
    fused, summed = (ask([1, 0.5, 0], name, layers=4, kl=agreed) for name in ("kl", "sum"))
    for accept, expected in ((0.75, fused), (0.76, summed), (0, fused), (1, summed)):
        got = ask([1, 0.5, 0], "kl-or-sum", layers=4, kl=agreed, accept=accept)
        np.testing.assert_array_equal(got, expected)
    assert np.abs(fused - summed).max() > 0.1
    # A layer that nobody moves has no vote.
    silent = np.concatenate([agreed[:3], np.zeros((1, 3))])
    assert agreement(silent, np.array([True, True, False])) == 1
    assert agreement(np.zeros((4, 3)), np.ones(3, bool)) == 0


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.every_token])
def test_one_adapter_at_weight_one_is_itself(name):
    """Whatever was read of the prompt; in the unit scale, which keeps trained strength."""
    some = np.array([[0.3, 0.0], [0.0, 0.0], [2.0, 0.0]])
    prompt = PromptStats(kl=some, distance=some, contribution=some, query_norm=some[0], likelihood=-some[0])
    np.testing.assert_allclose(ask([1, 0], name, prompt=prompt), [[1, 0]] * 3)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_asked_for_is_the_base(name):
    by_layer = dict.fromkeys(("kl", "distance", "contribution"), np.zeros((3, 2)))
    each = dict.fromkeys(("query_norm", "likelihood", "next_token"), np.zeros(2))
    assert not ask([0, 0], name, prompt=PromptStats(**by_layer, **each)).any()

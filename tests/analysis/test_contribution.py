"""Contributions on one site and two adapters, by hand."""

from __future__ import annotations

import numpy as np
import torch

from composer.adapters.bank import AdapterBank, LoraFactors
from composer.analysis.norm_correlation import layer_norms, norm_correlation
from composer.model.contribution import Contribution
from composer.model.rank_layout import GateTelemetry, Layout, layer_energy

PATH = "layers.0.q"


def bank() -> AdapterBank:
    one = LoraFactors(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0], [4.0]]), 1.0)
    two = LoraFactors(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [2.0]]), 0.5)
    return AdapterBank().add("one", {PATH: one}).add("two", {PATH: two})


def reader(bank: AdapterBank, layer_of: dict[str, int], layers: int):
    layout = Layout.of(bank, layer_of, layers, torch.device("cpu"))
    return lambda coded, energy: Contribution(layout)(GateTelemetry(coded, energy, layout))


def test_contribution_is_the_share_of_the_base_output():
    # z already holds gate and scaling: |y_one| = 2 * |(3, 4)| = 10, |y_two| = 3 * 2 = 6, |W0 x| = 20.
    read = reader(bank(), {PATH: 0}, 2)
    got = read(torch.tensor([[2.0, 3.0]]), torch.tensor([[400.0, 0.0]]))
    np.testing.assert_allclose(got.numpy(), [[[0.5, 0.3], [0.0, 0.0]]], rtol=1e-6)


def test_sites_of_a_layer_add_up_as_squares():
    clone = "layers.0.k"
    factors = LoraFactors(torch.eye(1), torch.ones(1, 1), 1.0)
    read = reader(AdapterBank().add("a", {PATH: factors, clone: factors}), {PATH: 0, clone: 0}, 1)
    energy = layer_energy(torch.tensor([[6.0, 8.0]]), torch.tensor([0, 0]), 1)
    got = read(torch.tensor([[3.0, 4.0]]), energy)
    np.testing.assert_allclose(got.numpy(), [[[0.5]]], rtol=1e-6)


def test_a_zero_base_output_gives_a_finite_number():
    read = reader(bank(), {PATH: 0}, 1)
    for coded in (torch.zeros(1, 2), torch.full((1, 2), 10.0)):
        assert torch.isfinite(read(coded, torch.zeros(1, 1))).all()


def test_layer_norms_take_the_sites_of_a_layer_together():
    norms = {"a": {"x": 3.0, "y": 4.0}, "b": {"z": 2.0}}
    got = layer_norms(norms, ("a", "b"), {"x": 0, "y": 0, "z": 1}, 2)
    np.testing.assert_allclose(got, [[5, 0], [0, 2]])


def test_norm_correlation_is_one_when_alpha_is_the_norm_share():
    norms = {"a": {"x": 3.0, "y": 1.0}, "b": {"x": 1.0, "y": 1.0}}
    alpha = np.array([[0.75, 0.25], [0.5, 0.5]])
    got = norm_correlation(alpha, norms, ("a", "b"), {"x": 0, "y": 1})
    assert got is not None and abs(got - 1) < 1e-9
    assert norm_correlation(alpha[:, :1], norms, ("a",), {"x": 0, "y": 1}) is None
    assert norm_correlation(np.full((2, 2), 0.5), norms, ("a", "b"), {"x": 0, "y": 1}) is None

"""Singular value calibration against its authors' formula on dense deltas, and where it changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer.adapters.bank import Adapter, LoraFactors
from composer.methods.merging import MERGES, Options, merge

SHAPE, RANKS, SCALINGS, WEIGHTS = (12, 9), (2, 3), (1.5, 0.5), [1.0, -0.8]


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adapters() -> list[Adapter]:
    return [
        {"site": LoraFactors(random(rank, SHAPE[1], seed=i), random(SHAPE[0], rank, seed=10 + i), scaling)}
        for i, (rank, scaling) in enumerate(zip(RANKS, SCALINGS, strict=True))
    ]


def dense(own: LoraFactors) -> np.ndarray:
    return (own.scaling * own.B.double() @ own.A.double()).numpy()


def merged(owns: list[Adapter], weights: list[float], floor: float | None = None) -> np.ndarray:
    return dense(merge(MERGES["svc"], owns, weights, Options(floor=floor)).adapter["site"])


@pytest.mark.parametrize("floor", [1.0, 0.5, 0.01])
def test_is_its_formula_on_dense_deltas(floor):
    owns = adapters()
    deltas = [weight * dense(own["site"]) for own, weight in zip(owns, WEIGHTS, strict=True)]
    u, sigma, vh = np.linalg.svd(sum(deltas), full_matrices=False)
    for k in range(sum(RANKS)):
        whole = u[:, k] @ sum(deltas)
        parts = [u[:, k] @ delta for delta in deltas]
        counts = [max(floor, whole @ part / (part @ part)) for part in parts]
        sigma[k] /= np.mean(counts)
    sigma[sum(RANKS) :] = 0
    np.testing.assert_allclose(merged(owns, WEIGHTS, floor), u * sigma @ vh, atol=1e-3)


def test_adapters_that_are_alike_count_once():
    (own, _) = adapters()
    np.testing.assert_allclose(merged([own] * 3, [1, 1, 1]), dense(own["site"]), rtol=1e-3, atol=1e-3)


def test_adapters_in_spaces_of_their_own_are_the_sum():
    basis = torch.linalg.qr(random(12, 4, seed=3)).Q
    owns = [
        {"site": LoraFactors(random(2, 9, seed=i), basis[:, 2 * i : 2 * i + 2] * (1 + i), 1.0)}
        for i in range(2)
    ]
    # The left directions of the sum mix what meets on the input side; apart there too, nothing is shared.
    rows = torch.linalg.qr(random(9, 4, seed=4)).Q.T
    for i, own in enumerate(owns):
        own["site"] = LoraFactors(rows[2 * i : 2 * i + 2], own["site"].B, 1.0)
    np.testing.assert_allclose(
        merged(owns, [1, 1]), sum(dense(own["site"]) for own in owns), rtol=1e-4, atol=1e-5
    )


def test_at_the_usual_floor_no_direction_is_amplified_and_below_it_some_are():
    owns = adapters()
    summed = np.linalg.svd(sum(w * dense(o["site"]) for o, w in zip(owns, WEIGHTS, strict=True)))[1]
    default, low = (np.linalg.svd(merged(owns, WEIGHTS, floor))[1] for floor in (None, 0.01))
    np.testing.assert_array_equal(merged(owns, WEIGHTS), merged(owns, WEIGHTS, 1.0))
    assert (default <= summed + 1e-4).all() and default.sum() < 0.99 * summed.sum()
    assert low.sum() > default.sum()


def test_a_site_of_one_adapter_and_silent_adapters_stay_as_they_are():
    own, other = adapters()
    made = merge(MERGES["svc"], [{**own, "alone": own["site"]}, other], [2.0, 1.0]).adapter
    np.testing.assert_allclose(dense(made["alone"]), 2 * dense(own["site"]), rtol=1e-5, atol=1e-5)
    silent = {"site": LoraFactors(other["site"].A, torch.zeros(12, 3), 1.0)}
    assert not merged([silent, silent], [1, 1]).any()

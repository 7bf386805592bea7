"""Pico against its formula and the cases where it must change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer.adapters.bank import LoraFactors
from composer.core.errors import ComposerError
from composer.methods.merging import MERGES, calibrate, merge


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adapters(bs: list[torch.Tensor], scaling: float = 2.0) -> list[dict[str, LoraFactors]]:
    return [{"site": LoraFactors(random(b.shape[1], 9, seed=50 + i), b, scaling)} for i, b in enumerate(bs)]


def crowded(count: int = 3, strength: float = 20.0) -> list[torch.Tensor]:
    """B's of rank 2 that share one strong direction."""
    common = random(12, 1, seed=99)
    return [random(12, 2, seed=i) + strength * common * random(1, 2, seed=200 + i) for i in range(count)]


def test_is_its_formula():
    owns = adapters(crowded())
    stacked = np.concatenate([own["site"].B.double().numpy() for own in owns], axis=1)
    u, sigma, _ = np.linalg.svd(stacked, full_matrices=False)
    c = sigma**2 / (sigma**2).sum()
    damping = u @ np.diag(1 / (1 + 2 * c) - 1) @ u.T
    for own, got in zip(owns, calibrate(owns), strict=True):
        b, a = own["site"].B.double().numpy(), own["site"].A.double().numpy()
        wanted = b + damping @ b
        wanted *= np.linalg.norm(b @ a) / np.linalg.norm(wanted @ a)
        np.testing.assert_allclose(got["site"].B, wanted, rtol=1e-3, atol=1e-3)
        assert got["site"].A is own["site"].A and got["site"].scaling == 2.0


def test_what_is_shared_counts_for_less_and_every_adapter_keeps_its_norm():
    owns = adapters(crowded())
    common = torch.linalg.svd(torch.cat([own["site"].B for own in owns], dim=1)).U[:, 0]
    for own, got in zip(owns, calibrate(owns), strict=True):
        share = [(common @ b).norm() / b.norm() for b in (own["site"].B, got["site"].B)]
        assert share[1] < share[0]
        assert got["site"].norm == pytest.approx(own["site"].norm, rel=1e-4)


def test_adapters_in_spaces_of_their_own_stay_as_they_are():
    spaces = torch.linalg.qr(random(12, 6, seed=1)).Q
    owns = adapters([3 * spaces[:, :2], 3 * spaces[:, 2:4], 3 * spaces[:, 4:]])
    for own, got in zip(owns, calibrate(owns), strict=True):
        torch.testing.assert_close(got["site"].B, own["site"].B)


def test_in_spaces_of_their_own_each_direction_is_damped_by_its_own_share():
    spaces, sizes = torch.linalg.qr(random(12, 4, seed=1)).Q, torch.tensor([1.0, 2.0, 3.0, 4.0])
    owns = adapters([(spaces * sizes)[:, :2], (spaces * sizes)[:, 2:]])
    factor = 1 / (1 + sizes**2 / (sizes**2).sum())  # [4]
    for got, columns in zip(calibrate(owns), (slice(0, 2), slice(2, 4)), strict=True):
        ratio = got["site"].B / (spaces * sizes * factor)[:, columns]
        torch.testing.assert_close(ratio, ratio[0, 0].expand(12, 2), rtol=1e-3, atol=1e-3)


def test_scaling_does_not_enter():
    plain, louder = (calibrate(adapters(crowded(), scaling)) for scaling in (1.0, 7.0))
    for one, two in zip(plain, louder, strict=True):
        torch.testing.assert_close(one["site"].B, two["site"].B)


def test_a_site_of_one_adapter_stays_as_it_is():
    owns = adapters(crowded(2))
    owns[0]["own"] = owns[0]["site"]
    got = calibrate(owns)
    assert got[0]["own"] is owns[0]["own"] and list(got[1]) == ["site"]
    assert calibrate(owns[:1]) == owns[:1] and calibrate([]) == []


def test_any_sum_can_follow():
    owns = adapters(crowded())
    calibrated = calibrate(owns)
    summed = merge(MERGES["cat"], calibrated, [1, 1, 1]).adapter["site"]
    wanted = sum(own["site"].scaling * own["site"].B @ own["site"].A for own in calibrated)
    torch.testing.assert_close(summed.B @ summed.A, wanted, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(wanted, sum(2 * own["site"].B @ own["site"].A for own in owns), atol=1.0)


def test_silent_adapters_have_nothing_to_damp():
    owns = adapters([torch.zeros(12, 2), torch.zeros(12, 3)])
    assert not any(own["site"].B.any() for own in calibrate(owns))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_keeps_the_dtype(dtype):
    assert {own["site"].B.dtype for own in calibrate(adapters([b.to(dtype) for b in crowded()]))} == {dtype}


def test_what_overflows_is_refused():
    with pytest.raises(ComposerError, match="too large to be stored"):
        calibrate(adapters([torch.full((12, 2), 3e38), torch.full((12, 2), 3e38)]))

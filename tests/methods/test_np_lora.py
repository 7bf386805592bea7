"""NP-LoRA against its formula on dense deltas, and the cases where it must change nothing."""

from __future__ import annotations

import pytest
import torch

from composer.adapters.bank import Adapter, LoraFactors
from composer.core.errors import ComposerError
from composer.methods.merging import CALIBRATIONS, Options

RANKS = (2, 3, 2)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adapters() -> list[Adapter]:
    return [
        {"site": LoraFactors(random(rank, 9, seed=i), random(12, rank, seed=10 + i), 1.0 + i)}
        for i, rank in enumerate(RANKS)
    ]


def dense(own: LoraFactors) -> torch.Tensor:
    return own.scaling * own.B.double() @ own.A.double()


def project(owns: list[Adapter], kept: int, u: float) -> list[Adapter]:
    return CALIBRATIONS["np-lora"].rule(owns, kept, Options(projection=u))


@pytest.mark.parametrize(("kept", "u"), [(0, 1.0), (1, 0.25), (2, 1000.0)])
def test_is_its_formula_on_dense_deltas(kept, u):
    owns = adapters()
    vh = torch.linalg.svd(dense(owns[kept]["site"])).Vh[: RANKS[kept]]  # [K, d_in]
    kept_out = torch.eye(9, dtype=torch.float64) - u / (1 + u) * vh.T @ vh
    for place, (own, got) in enumerate(zip(owns, project(owns, kept, u), strict=True)):
        expected = dense(own["site"]) if place == kept else dense(own["site"]) @ kept_out
        torch.testing.assert_close(dense(got["site"]), expected, rtol=1e-4, atol=1e-4)
        assert got["site"].B is own["site"].B and got["site"].scaling == own["site"].scaling
    assert project(owns, kept, u)[kept]["site"].A is owns[kept]["site"].A


def test_as_u_grows_the_others_leave_what_the_kept_adapter_reads():
    owns = adapters()
    read = torch.linalg.qr(owns[0]["site"].A.T.double()).Q  # [d_in, 2]
    heard = [float((dense(project(owns, 0, u)[1]["site"]) @ read).norm()) for u in (0, 1, 9, 999)]
    assert heard[1] == pytest.approx(heard[0] / 2, rel=1e-4)
    assert heard[2] == pytest.approx(heard[0] / 10, rel=1e-4)
    assert heard[3] == pytest.approx(heard[0] / 1000, rel=1e-2)


def test_u_zero_and_sites_that_are_not_shared_change_nothing():
    owns = adapters()
    assert project(owns, 0, 0) == owns
    owns[1]["own"], owns[0]["first"] = owns[1]["site"], owns[0]["site"]
    got = project(owns, 0, 1)
    assert got[1]["own"] is owns[1]["own"] and got[0] == owns[0]
    assert project(owns[:1], 0, 1) == owns[:1] and project([{}, owns[1]], 0, 1)[1] == owns[1]


def test_a_kept_adapter_that_adds_nothing_takes_nothing_away():
    owns = adapters()
    owns[0]["site"] = LoraFactors(owns[0]["site"].A, torch.zeros(12, 2), 1.0)
    torch.testing.assert_close(project(owns, 0, 5)[1]["site"].A, owns[1]["site"].A)


def test_directions_that_the_kept_adapter_has_twice_count_once():
    owns = adapters()
    own = owns[0]["site"]
    owns[0]["site"] = LoraFactors(torch.cat([own.A, own.A]), torch.cat([own.B, 2 * own.B], dim=1), 1.0)
    expected = project(adapters(), 0, 3)[1]["site"].A
    torch.testing.assert_close(project(owns, 0, 3)[1]["site"].A, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_keeps_the_dtype(dtype):
    owns = [
        {"site": LoraFactors(own["site"].A.to(dtype), own["site"].B.to(dtype), 1.0)} for own in adapters()
    ]
    assert {own["site"].A.dtype for own in project(owns, 0, 1)} == {dtype}


def test_what_overflows_is_refused():
    owns = adapters()
    owns[0]["site"] = LoraFactors(torch.full((2, 9), 3e38), torch.full((12, 2), 3e38), 1.0)
    with pytest.raises(ComposerError, match="too large to be stored"):
        project(owns, 0, 1)

"""Merges that look at single entries, against matrices small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from composer.adapters.bank import LoraFactors
from composer.methods.merging import MERGES, Options, merge
from composer.methods.merging.cpi_ft import isolate, slerp
from composer.methods.merging.dense import largest, truncated
from composer.methods.merging.sparsify import dropped, pruned, ties_consensus

X = torch.tensor([[4.0, -1.0, 3.0], [2.0, 0.5, 0.0], [-5.0, 0.1, 1.0]])
Y = torch.tensor([[-1.5, -3.0, 5.0], [1.0, 0.2, -4.0], [6.0, 0.3, 2.0]])
# The four largest of each, and of those what agrees with the side that weighs more, averaged.
X_PRUNED = torch.tensor([[4.0, 0.0, 3.0], [2.0, 0.0, 0.0], [-5.0, 0.0, 0.0]])
Y_PRUNED = torch.tensor([[0.0, -3.0, 5.0], [0.0, 0.0, -4.0], [6.0, 0.0, 0.0]])
XY_TIES = torch.tensor([[4.0, -3.0, 4.0], [2.0, 0.0, -4.0], [6.0, 0.0, 0.0]])


def adapter(delta: torch.Tensor, scaling: float = 1.0) -> dict[str, LoraFactors]:
    """An adapter whose change at its one site is `delta`."""
    return {"site": LoraFactors(torch.eye(delta.shape[1]), delta / scaling, scaling)}


def made(name, deltas, weights, **options) -> torch.Tensor:
    merged = merge(MERGES[name], [adapter(own, 2.0) for own in deltas], weights, Options(**options)).adapter
    return merged["site"].B @ merged["site"].A


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_pruning_keeps_the_largest_entries():
    for got, wanted in zip(pruned([X, Y], 4 / 9), (X_PRUNED, Y_PRUNED), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99, 1.0])
def test_largest_is_the_share_of_a_sort(share):
    delta = random(13, 7)
    count = max(1, round(share * delta.numel()))
    bound = delta.abs().flatten().sort(descending=True).values[count - 1]
    assert torch.equal(largest(delta, share), delta.abs() >= bound)
    assert int(largest(delta, share).sum()) == count


def test_entries_of_equal_size_stay_together_and_zeros_never_do():
    assert largest(torch.tensor([[2.0, -1.0], [1.0, 0.0]]), 0.5).tolist() == [[True, True], [True, False]]
    assert largest(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), 1.0).tolist() == [[True, False], [False, False]]


def test_ties_by_hand():
    assert torch.equal(ties_consensus([X_PRUNED, Y_PRUNED]), XY_TIES)
    torch.testing.assert_close(made("ties", [X, Y], [1, 1], density=4 / 9), XY_TIES, rtol=1e-5, atol=1e-5)


def test_ties_averages_those_that_agree():
    torch.testing.assert_close(made("ties", [X, X, X], [1, 1, 1], density=1), X, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made("ties", [X, X], [1, 0.5], density=1), 0.75 * X, rtol=1e-5, atol=1e-5)


def test_in_ties_a_negative_weight_votes_for_the_other_side():
    # -Y votes with X where Y stood against it: first column, last row.
    wanted = torch.tensor([[4.0, 3.0, -5.0], [2.0, 0.0, 4.0], [-5.5, 0.0, 0.0]])
    torch.testing.assert_close(made("ties", [X, Y], [1, -1], density=4 / 9), wanted, rtol=1e-5, atol=1e-5)


def test_magnitude_prune_sums_what_is_kept():
    wanted = X_PRUNED - 0.5 * Y_PRUNED
    got = made("magnitude", [X, Y], [1, -0.5], density=4 / 9)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_dare_by_hand():
    chance = np.random.default_rng(7).random((2, 3, 3), np.float32)
    wanted = [
        torch.where(torch.from_numpy(c < 0.25), 4 * own, 0) for c, own in zip(chance, (X, Y), strict=True)
    ]
    for got, own in zip(dropped([X, Y], 0.25, np.random.default_rng(7)), wanted, strict=True):
        assert torch.equal(got, own)
    options = {"density": 0.25, "seed": 7}
    torch.testing.assert_close(
        made("dare-linear", [X, Y], [1, -1], **options), wanted[0] - wanted[1], rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        made("dare-ties", [X, Y], [1, 1], **options), ties_consensus(wanted), rtol=1e-5, atol=1e-5
    )


def test_dare_drops_the_stated_share():
    (kept,) = dropped([torch.ones(200, 200)], 0.3, np.random.default_rng(0))
    assert float((kept != 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.3])


def test_core_isolation_by_hand():
    one, two = torch.tensor([[10.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0, 8.0], [0.0, 2.0]])
    root = math.sqrt(2)  # half way between (2, 0) and (0, 2) on their circle
    merged, overlaps = isolate([one, two], 0.25)
    torch.testing.assert_close(merged, torch.tensor([[10.0, 8.0], [root, root]]))
    assert overlaps == [0]
    got = made("core", [one, two], [1, 1], core=0.25)
    torch.testing.assert_close(got, torch.tensor([[10.0, 8.0], [root, root]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "share"), [(1, 0.01), (2, 0.01), (3, 0.1), (4, 0.5)])
def test_a_core_entry_keeps_the_value_of_its_largest_owner(count, share):
    deltas = [random(30, 40, seed=seed) * (1 + seed) for seed in range(count)]
    merged, overlaps = isolate(deltas, share)
    cores = torch.stack([largest(own, share) for own in deltas])  # [N, 30, 40]
    claims = torch.stack(deltas) * cores
    loudest = claims.abs().max(dim=0).values
    owned = cores.any(dim=0)
    assert torch.equal(merged[owned].abs(), loudest[owned])
    for own, core in zip(deltas, cores, strict=True):
        alone = core & (cores.sum(dim=0) == 1)
        assert torch.equal(merged[alone], own[alone])
    assert len(overlaps) == math.comb(count, 2)


def test_overlap_is_jaccards():
    one = torch.tensor([[9.0, 8.0, 0.1, 0.2]])
    two = torch.tensor([[9.0, 0.1, 8.0, 0.2]])
    assert isolate([one, two], 0.5).overlaps == [pytest.approx(1 / 3)]
    assert isolate([one, one], 0.5).overlaps == [1]
    merged = merge(MERGES["core"], [adapter(one), adapter(two)], [1, 1], Options(core=0.5))
    assert merged.notes["jaccard"] == pytest.approx(1 / 3)


def test_chance_is_what_unrelated_cores_overlap():
    pair = [adapter(random(300, 300, seed=seed)) for seed in (1, 2)]
    notes = merge(MERGES["core"], pair, [1, 1], Options(core=0.2, rank=1)).notes
    assert notes["jaccard"] == pytest.approx(notes["chance"], abs=0.01)


def test_slerp_keeps_the_length_and_begins_and_ends_right():
    one, two = random(4, 5, seed=1), random(4, 5, seed=2)
    two = two * (one.norm() / two.norm())
    torch.testing.assert_close(slerp(one, two, 0.0), one)
    torch.testing.assert_close(slerp(one, two, 1.0), two)
    for omega in (0.2, 0.5, 0.9):
        torch.testing.assert_close(slerp(one, two, omega).norm(), one.norm())


def test_slerp_of_parallel_and_opposite_is_a_line():
    one = random(4, 5)
    torch.testing.assert_close(slerp(one, 3 * one, 0.5), 2 * one)
    torch.testing.assert_close(slerp(one, -one, 0.25), 0.5 * one)


def test_the_third_takes_part_with_a_third_of_the_arc():
    rests = [torch.zeros(1, 4).index_fill(1, torch.tensor([i]), 1.0) for i in range(3)]
    loud = torch.tensor([[0.0, 0.0, 0.0, 9.0]])  # the only core entry, the same in all
    root = math.sqrt(0.75) * math.sqrt(0.5)
    torch.testing.assert_close(
        isolate([own + loud for own in rests], 0.25).merged, torch.tensor([[root, root, 0.5, 9.0]])
    )


def test_omega_pulls_towards_the_later_one():
    one, two = random(6, 6, seed=1), random(6, 6, seed=2)
    rest = ~(largest(one, 0.1) | largest(two, 0.1))
    for omega, end in ((0.0, one), (1.0, two)):
        torch.testing.assert_close(isolate([one, two], 0.1, omega).merged[rest], end[rest])


def test_a_silent_adapter_takes_no_part_in_the_spherical_merge():
    one = random(6, 6)
    assert torch.equal(isolate([one, torch.zeros(6, 6)], 0.1).merged, one)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (5, 90)])
@pytest.mark.parametrize("rank", [1, 4, 16, 100])
def test_the_cut_keeps_almost_all_that_any_could(shape, rank):
    """On noise, whose singular values fall slowest: the hardest case there is."""
    delta = random(*shape)
    halves = truncated(delta, rank)
    best = float(torch.linalg.svdvals(delta)[:rank].square().sum())
    assert 0.98 * best <= halves.kept <= 1.0001 * best
    assert halves.whole == pytest.approx(float(delta.square().sum()), rel=1e-5)
    lost = float((delta - halves.B @ halves.A).square().sum())
    # The difference of two float32 sums is as sure as the larger of them, however many threads add it up.
    assert lost == pytest.approx(halves.whole - halves.kept, rel=1e-3, abs=2e-6 * halves.whole)


def test_the_cut_of_what_has_that_rank_is_exact():
    delta = random(50, 3) @ random(3, 70, seed=1)
    halves = truncated(delta, 3)
    torch.testing.assert_close(halves.B @ halves.A, delta, rtol=1e-4, atol=1e-4)

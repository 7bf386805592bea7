"""Merges of whole adapters: what each claims to equal, and what none may do to its inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from composer.adapters.bank import Adapter, AdapterBank, LoraFactors
from composer.core.errors import ComposerError
from composer.methods import METHODS
from composer.methods.merging import MERGES, Options, merge

# (d_out, d_in), ranks and scalings of the adapters at a site; the last ranks add up to more than d_out.
CASES = [
    ((5, 7), (2,), (1.5,)),
    ((24, 16), (2, 3), (0.5, 2.0)),
    ((16, 40), (4, 4, 4), (2.4, 2.4, 2.4)),
    ((6, 9), (3, 4, 2), (1.0, 0.25, 8 / math.sqrt(2))),
]
OPEN = Options(density=1.0)  # nothing pruned, nothing dropped


def lora(shape: tuple[int, int], rank: int, scaling: float, seed: int, dtype=torch.float32) -> LoraFactors:
    draws = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, shape[1], generator=draws)
    b = torch.randn(shape[0], rank, generator=draws)
    return LoraFactors(a.to(dtype), b.to(dtype), scaling)


def family(shape, ranks, scalings) -> list[Adapter]:
    """One adapter per rank, each with two sites of one shape."""
    return [
        {name: lora(shape, rank, scaling, 10 * i + j) for j, name in enumerate(("one", "two"))}
        for i, (rank, scaling) in enumerate(zip(ranks, scalings, strict=True))
    ]


def delta(own: LoraFactors) -> torch.Tensor:
    return own.scaling * own.B.double() @ own.A.double()


def total(adapters: list[Adapter], weights, path: str = "one") -> torch.Tensor:
    return sum(w * delta(own[path]) for own, w in zip(adapters, weights, strict=True))


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", MERGES)
def test_one_adapter_at_weight_1_is_itself(name, case):
    shape, ranks, scalings = case
    for own in family(shape, ranks, scalings):
        merged = merge(MERGES[name], [own], [1.0], OPEN).adapter
        assert list(merged) == list(own)
        for path in own:
            assert merged[path].scaling == 1
            close(delta(merged[path]), delta(own[path]))


@pytest.mark.parametrize("name", ["ties", "magnitude", "dare-linear", "dare-ties"])
def test_thinning_out_changes_even_one_adapter(name):
    (own,) = family((24, 16), (2,), (1.0,))
    merged = merge(MERGES[name], [own], [1.0], Options(rank=16)).adapter
    assert (delta(merged["one"]) - delta(own["one"])).norm() > 0.1 * delta(own["one"]).norm()


@pytest.mark.parametrize("case", CASES)
def test_what_is_a_sum_equals_the_sum_of_deltas(case):
    adapters = family(*case)
    weights = [1.0, -0.5, 2.0][: len(adapters)]
    for name, options in (
        ("cat", Options()),
        ("svd", Options(rank=sum(case[1]))),
        ("magnitude", OPEN),
        ("dare-linear", OPEN),
    ):
        merged = merge(MERGES[name], adapters, weights, options).adapter
        for path in ("one", "two"):
            close(delta(merged[path]), total(adapters, weights, path))


@pytest.mark.parametrize("case", CASES)
def test_delta_average_is_the_sum_over_n(case):
    adapters = family(*case)
    weights = [1.0, 0.5, -1.0][: len(adapters)]
    for options in (Options(), Options(rank=16)):
        merged = merge(MERGES["delta-average"], adapters, weights, options).adapter
        close(delta(merged["two"]), total(adapters, weights, "two") / len(adapters))


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_svd_is_the_best_approximation_and_notes_the_kept_share(rank):
    adapters = family((24, 16), (2, 3), (0.5, 2.0))
    merged = merge(MERGES["svd"], adapters, [1, 1], Options(rank=rank))
    wholes = [torch.linalg.svd(total(adapters, [1, 1], path)) for path in ("one", "two")]
    u, sigma, vh = wholes[0]
    close(delta(merged.adapter["one"]), u[:, :rank] * sigma[:rank] @ vh[:rank])
    kept = sum(float((sigma[:rank] ** 2).sum()) for _, sigma, _ in wholes)
    assert merged.notes["kept"] == pytest.approx(
        kept / sum(float((sigma**2).sum()) for _, sigma, _ in wholes), rel=1e-5
    )


def test_svd_usually_takes_the_largest_rank_and_dense_merges_the_sum_of_ranks():
    adapters = family((24, 16), (2, 3), (0.5, 2.0))
    for name, rank in (("svd", 3), ("cat", 5), ("delta-average", 5), ("ties", 5), ("core", 5)):
        merged = merge(MERGES[name], adapters, [1, 1]).adapter
        assert merged["one"].A.shape == (rank, 16) and merged["one"].B.shape == (24, rank)
    wide = merge(MERGES["ties"], adapters, [1, 1], Options(rank=4096)).adapter
    assert wide["one"].A.shape == (16, 16)


def test_factor_average_has_every_b_meet_every_a():
    one, two = family((16, 40), (4, 4), (2.0, 2.0))
    b, a = (one["one"].B + two["one"].B) / 2, (one["one"].A + two["one"].A) / 2
    merged = merge(MERGES["factor-average"], [one, two], [1, 1]).adapter
    close(delta(merged["one"]), 2.0 * b.double() @ a.double())
    terms = sum(2.0 / 4 * x["one"].B @ y["one"].A for x in (one, two) for y in (one, two))
    close(delta(merged["one"]), terms.double())


def test_factor_average_takes_the_root_of_each_strength_on_both_factors():
    one, two = family((16, 40), (4, 4), (2.0, 0.5))
    shares = [0.5 * 2.0, -3.0 * 0.5]  # weight times scaling; its sign stands with A
    parts = list(zip((one["one"], two["one"]), shares, strict=True))
    b = sum(abs(share) ** 0.5 * own.B for own, share in parts) / 2
    a = sum(math.copysign(abs(share) ** 0.5, share) * own.A for own, share in parts) / 2
    merged = merge(MERGES["factor-average"], [one, two], [0.5, -3.0]).adapter
    close(delta(merged["one"]), b.double() @ a.double())


@pytest.mark.parametrize("name", ["factor-average", "linear"])
def test_adding_factors_needs_equal_ranks(name):
    with pytest.raises(ComposerError, match=r"have 2, 3; choose exact concatenation or SVD"):
        merge(MERGES[name], family((24, 16), (2, 3), (1, 1)), [1, 1])


@pytest.mark.parametrize("name", ["linear", "cat", "svd"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, -0.4)])
def test_equals_peft(name, weights):
    base = torch.nn.ModuleDict({"one": torch.nn.Linear(7, 5), "two": torch.nn.Linear(5, 6)})
    common = dict(r=3, target_modules=["one", "two"], init_lora_weights=False)
    model = get_peft_model(base, LoraConfig(lora_alpha=4, **common), adapter_name="x")
    model.add_adapter("y", LoraConfig(lora_alpha=9, **common))
    model.base_model.add_weighted_adapter(["x", "y"], list(weights), "merged", combination_type=name)
    layers = {path: base[path] for path in ("one", "two")}
    x, y, wanted = (
        {
            path: LoraFactors(own.lora_A[n].weight.data, own.lora_B[n].weight.data, own.scaling[n])
            for path, own in layers.items()
        }
        for n in ("x", "y", "merged")
    )
    got = merge(MERGES[name], [x, y], weights).adapter
    for path in layers:
        close(delta(got[path]), delta(wanted[path]))


def test_dare_is_unbiased_over_seeds():
    adapters = family((6, 9), (2, 2), (1.0, 2.0))
    runs, density = 400, 0.5
    mean = torch.zeros(6, 9, dtype=torch.float64)
    for seed in range(runs):
        options = Options(density=density, seed=seed, rank=6)
        mean += delta(merge(MERGES["dare-linear"], adapters, [1, 1], options).adapter["one"]) / runs
    variance = sum(delta(own["one"]) ** 2 for own in adapters) * (1 - density) / density
    assert ((mean - total(adapters, [1, 1])).abs() < 5 * (variance / runs).sqrt()).all()


@pytest.mark.parametrize("name", MERGES)
def test_same_options_make_the_same_merge_and_leave_inputs_and_generators_alone(name):
    adapters = family((12, 10), (3, 3), (1.0, 2.0))
    before = [{path: (own.A.clone(), own.B.clone()) for path, own in adapter.items()} for adapter in adapters]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two = (merge(MERGES[name], adapters, [1, -0.5], Options(seed=3)).adapter for _ in range(2))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    for path in ("one", "two"):
        assert torch.equal(one[path].A, two[path].A) and torch.equal(one[path].B, two[path].B)
        for own, (a, b) in zip(adapters, (halves[path] for halves in before), strict=True):
            assert torch.equal(own[path].A, a) and torch.equal(own[path].B, b)


@pytest.mark.parametrize("name", ["dare-linear", "dare-ties"])
def test_another_seed_drops_other_entries(name):
    adapters = family((12, 10), (3, 3), (1.0, 2.0))
    one, two = (merge(MERGES[name], adapters, [1, 1], Options(seed=seed)).adapter for seed in (0, 1))
    assert not torch.allclose(delta(one["one"]), delta(two["one"]))


@pytest.mark.parametrize("name", MERGES)
def test_an_adapter_at_weight_0_takes_no_part(name):
    adapters = family((12, 10), (3, 3, 3), (1.0, 2.0, 1.0))
    without = merge(MERGES[name], adapters[::2], [1, 0.5]).adapter
    beside = merge(MERGES[name], adapters, [1, 0, 0.5]).adapter
    for path in ("one", "two"):
        assert torch.equal(without[path].A, beside[path].A) and torch.equal(without[path].B, beside[path].B)


@pytest.mark.parametrize("name", MERGES)
def test_nothing_taking_part_is_the_base(name):
    adapters = family((12, 10), (3, 3), (1.0, 2.0))
    assert merge(MERGES[name], adapters, [0, 0]).adapter == {}
    assert merge(MERGES[name], [], []).adapter == {}


@pytest.mark.parametrize("name", MERGES)
def test_an_absent_site_counts_as_a_zero_delta(name):
    one, two = family((12, 10), (3, 3), (1.0, 2.0))
    silent = LoraFactors(two["two"].A, torch.zeros_like(two["two"].B), 2.0)
    options = Options(density=1.0, rank=10)
    lacking = merge(MERGES[name], [one, {"one": two["one"]}], [1, 1], options).adapter
    if name in ("factor-average", "linear"):  # there the absent one's A is zero too, not only its B
        silent = LoraFactors(torch.zeros_like(silent.A), silent.B, 2.0)
    zero = merge(MERGES[name], [one, two | {"two": silent}], [1, 1], options).adapter
    close(delta(lacking["two"]), delta(zero["two"]))


@pytest.mark.parametrize("name", MERGES)
def test_adapters_that_change_nothing_merge_to_nothing(name):
    zero = {"one": LoraFactors(torch.ones(2, 5), torch.zeros(4, 2), 1.0)}
    merged = merge(MERGES[name], [zero, zero], [1, 1])
    assert not delta(merged.adapter["one"]).any()
    assert "kept" not in merged.notes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MERGES)
def test_keeps_the_dtype_and_fits_a_bank(name, dtype):
    adapters = [{"one": lora((12, 10), 3, 2.0, seed, dtype)} for seed in (0, 1)]
    merged = merge(MERGES[name], adapters, [1, 1]).adapter
    assert merged["one"].A.dtype == merged["one"].B.dtype == dtype
    bank = AdapterBank().add("x", adapters[0]).add("merged", merged)
    assert set(bank.sites["one"].adapter_index.tolist()) == {0, 1}


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 6e4), (torch.float32, 1e30)])
def test_what_overflows_is_refused(name, dtype, size):
    large = {
        "one": LoraFactors(torch.full((1, 4), size, dtype=dtype), torch.full((3, 1), size, dtype=dtype), 9e20)
    }
    with pytest.raises(ComposerError, match="too large to be stored; lower the weights"):
        merge(MERGES[name], [large, large], [8, 8])


@pytest.mark.parametrize("name", MERGES)
def test_adapters_of_different_models_are_refused(name):
    adapters = [{"one": lora(shape, 2, 1.0, 0)} for shape in ((4, 6), (4, 8))]
    with pytest.raises(ComposerError, match="merge only adapters of one base"):
        merge(MERGES[name], adapters, [1, 1])


@pytest.mark.parametrize("weight", [math.nan, math.inf, 9, "much", None, True])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(ComposerError, match="weight must be a number between -8 and 8"):
        merge(MERGES["cat"], family((5, 7), (2,), (1.0,)), [weight])


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0},
        {"rank": 1.5},
        {"rank": "all"},
        {"density": 0},
        {"density": 1.1},
        {"density": math.nan},
        {"core": 0},
        {"core": 2},
        {"omega": -0.1},
        {"floor": 0},
        {"projection": -1},
        {"seed": -1},
        {"seed": 0.5},
        {"seed": None},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ComposerError, match=f"^{name} must be a"):
        Options(**wrong)


def test_every_merge_is_a_method_and_reads_its_own_parameters_only():
    adapters = family((12, 10), (3, 3), (1.0, 2.0))
    turned = {"rank": 2, "density": 0.35, "seed": 5, "core": 0.3, "omega": 0.9, "floor": 0.2}
    for name, method in MERGES.items():
        assert name == method.name == METHODS[name].merge
        assert set(method.defaults) <= set(METHODS[name].parameters)
        defaults = delta(merge(method, adapters, [1, 1]).adapter["one"])
        heard = {
            dial
            for dial, value in turned.items()
            if not torch.equal(
                delta(merge(method, adapters, [1, 1], Options(**{dial: value})).adapter["one"]), defaults
            )
        }
        # What DARE drops is nobody's choice, so that the same sliders make the same adapter.
        assert heard - {"seed"} == set(METHODS[name].parameters)

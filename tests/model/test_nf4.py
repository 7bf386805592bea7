"""Products with nf4 weights: plans, the choice between ways, the stacked layers and their group."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from composer.model.runtime.llama.fused_linear import UnfusedLinear, fuse_linears
from composer.model.runtime.nf4 import product as products
from composer.model.runtime.nf4.choice import bucket, choose, difference
from composer.model.runtime.nf4.linear import Nf4Linear
from composer.model.runtime.nf4.plan import BLOCK, FewRows, OneRow, plans
from composer.model.runtime.nf4.stacking import stack, stackable

# --- plans -------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [64, 192, 576, 1536, 4096, 14336])
@pytest.mark.parametrize("outputs", [1, 960, 4096, 28672])
@pytest.mark.parametrize("rows", [1, 2, 8, 9, 17, 32])
def test_a_plan_covers_all_rows_and_all_of_k(rows, outputs, features):
    for plan in plans(rows, outputs, features):
        if isinstance(plan, OneRow):
            assert rows == 1 and plan.warps in (1, 2, 4) and plan.blocks == 16 * plan.warps
        else:
            assert isinstance(plan, FewRows) and rows <= plan.rows
            assert plan.step % BLOCK == 0 and plan.span % plan.step == 0
            assert (plan.splits - 1) * plan.span < features <= plan.splits * plan.span


def test_few_outputs_are_split_over_k_and_many_are_not():
    assert plans(4, 4096, 4096)[0].splits > 1
    assert plans(4, 28672, 4096)[0].splits == 1


def test_a_bucket_is_the_least_that_holds_the_rows():
    assert [bucket(rows) for rows in (1, 2, 4, 5, 9, 17, 32)] == [1, 4, 4, 8, 16, 32, 32]


# --- the choice --------------------------------------------------------------------------------

RIGHT = torch.arange(1.0, 7.0).view(2, 3), torch.ones(2, 0)


def right() -> tuple[torch.Tensor, torch.Tensor]:
    return RIGHT


def other_right() -> tuple[torch.Tensor, torch.Tensor]:
    return RIGHT[0] * (1 + 1e-6), RIGHT[1]


def wrong_in_a_row() -> tuple[torch.Tensor, torch.Tensor]:
    return RIGHT[0] * torch.tensor([[1.0], [1.01]]), RIGHT[1]


def failing() -> tuple[torch.Tensor, torch.Tensor]:
    raise RuntimeError("many lines\nno such instruction")


def choice(candidates, seconds) -> str:
    return choose("here", ("reference", right), candidates, lambda run: seconds[run])


def test_the_fastest_candidate_is_chosen():
    candidates = {"slow": other_right, "fast": lambda: RIGHT}
    seconds = {right: 3.0, other_right: 2.0, candidates["fast"]: 1.0}
    assert choice(candidates, seconds) == "fast"
    assert choice(candidates, seconds | {right: 0.5}) == "reference"


def test_a_candidate_that_fails_is_left_out_and_logged_once(caplog):
    assert choice({"broken": failing, "sound": other_right}, {right: 2.0, other_right: 1.0}) == "sound"
    assert len(caplog.records) == 1
    assert "broken (RuntimeError: no such instruction)" in caplog.text


def test_a_candidate_with_another_result_is_left_out(caplog):
    assert choice({"wrong": wrong_in_a_row}, {right: 2.0, wrong_in_a_row: 1.0}) == "reference"
    assert "off by" in caplog.text


def test_a_candidate_that_cannot_be_timed_is_left_out():
    assert choice({"untimed": other_right, "sound": right}, {right: 1.0}) == "sound"


def test_the_reference_is_the_last_resort_when_nothing_can_be_timed():
    assert choice({"untimed": other_right}, {}) == "reference"
    assert choice({"timed": other_right}, {other_right: 1.0}) == "reference"


@pytest.mark.parametrize(
    "got",
    [
        (RIGHT[0].to(torch.bfloat16), RIGHT[1]),
        (RIGHT[0][:1], RIGHT[1]),
        (RIGHT[0] * torch.nan, RIGHT[1]),
        wrong_in_a_row(),
    ],
)
def test_what_is_not_the_same_is_named(got):
    assert difference(got, RIGHT) and not difference(RIGHT, RIGHT)


# --- stacked layers ----------------------------------------------------------------------------

WIDTHS = (48, 16, 24)
FEATURES = 192


def layers(nested: bool, bias: bool = False, widths=WIDTHS, **options) -> list[nn.Module]:
    torch.manual_seed(3)
    made = []
    for width in widths:
        settings = {
            "compute_dtype": torch.float32,
            "compress_statistics": nested,
            "quant_type": "nf4",
        } | options
        layer = bitsandbytes.nn.Linear4bit(FEATURES, width, bias=bias, **settings)
        layer.load_state_dict(nn.Linear(FEATURES, width, bias=bias).state_dict())
        layer.support_avx512bf16_for_cpu = False  # bitsandbytes would repack them at the first call
        made.append(layer.to("cpu").eval().requires_grad_(False))
    return made


X = torch.randn(5, FEATURES, generator=torch.Generator().manual_seed(4))
A = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def fresh(monkeypatch):
    """Choices of one test do not serve another."""
    monkeypatch.setattr(products, "_ways", {})


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_stacking_leaves_the_layers_own_product_as_it_is_bit_by_bit(nested, bias):
    group = layers(nested, bias)
    before = [layer(X) for layer in group]
    joint = stack(group)
    assert all(torch.equal(layer(X), own) for layer, own in zip(group, before, strict=True))
    assert joint.packed.shape == (sum(WIDTHS), FEATURES // 2)
    weights = bitsandbytes.functional.dequantize_4bit
    whole = torch.cat([weights(layer.weight.data, layer.weight.quant_state) for layer in group])
    assert torch.equal(torch.cat(before, dim=1), F.linear(X, whole, joint.bias))


def test_stacked_layers_are_views_of_one_copy():
    group = layers(nested=True)
    joint = stack(group)
    storage = joint.packed.untyped_storage().data_ptr()
    assert {layer.weight.untyped_storage().data_ptr() for layer in group} == {storage}
    scales = joint.absmax.untyped_storage().data_ptr()
    assert {layer.weight.quant_state.absmax.untyped_storage().data_ptr() for layer in group} == {scales}


def test_stacking_again_copies_nothing():
    group = layers(nested=True)
    first, again = stack(group), stack(group)
    assert first.packed.data_ptr() == again.packed.data_ptr()
    assert first.absmax.data_ptr() == again.absmax.data_ptr()
    assert torch.equal(first.packed, again.packed) and torch.equal(first.absmax, again.absmax)


def test_other_layers_are_not_stacked():
    assert stackable(layers(nested=True))
    assert not stackable([nn.Linear(64, 8)])
    assert not stackable(layers(nested=True, quant_type="fp4"))
    assert not stackable([*layers(nested=True), *layers(nested=True, compute_dtype=torch.bfloat16)])
    group = layers(nested=True)
    group[1].weight.quant_state.blocksize = 128
    assert not stackable(group)


def test_without_a_gpu_the_layers_are_called_one_by_one():
    group = layers(nested=True, compute_dtype=torch.bfloat16)
    assert isinstance(fuse_linears(group, A), UnfusedLinear)


# --- the group ---------------------------------------------------------------------------------


def group_of(bias: bool, A: torch.Tensor | None, clock=lambda run: 1.0) -> tuple[Nf4Linear, list[nn.Module]]:
    group = layers(nested=True, bias=bias)
    return Nf4Linear(group, A, stack(group), clock), group


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_a_group_gives_the_layers_side_by_side_and_z(fresh, rows, bias):
    fused, group = group_of(bias, A)
    x, scale = X.repeat(8, 1)[:rows], torch.rand(rows, len(A))
    out, z = fused(x)
    torch.testing.assert_close(out, torch.cat([layer(x) for layer in group], dim=1))
    torch.testing.assert_close(z, F.linear(x, A))
    torch.testing.assert_close(fused(x, scale)[1], F.linear(x, A) * scale)


def test_without_adapters_z_is_empty(fresh):
    fused, _ = group_of(bias=False, A=None)
    assert fused(X)[1].shape == (len(X), 0)


def test_the_compiler_sees_one_operator_whatever_the_rows(fresh):
    fused, _ = group_of(bias=True, A=A)
    seen: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]):
        seen.append(graph)
        return graph

    run = torch.compile(lambda x: fused(x)[0] * 2, backend=backend, fullgraph=True, dynamic=True)
    for rows in (5, 3, 33):
        x = torch.randn(rows, FEATURES)
        torch.testing.assert_close(run(x), fused(x)[0] * 2)
    calls = [node.target for node in seen[0].graph.nodes if node.op == "call_function"]
    assert len(seen) == 1
    assert calls.count(torch.ops.composer.nf4_product.default) == 1


def doubled(*inputs):
    out, z = products.by_bitsandbytes(*inputs)
    return 2 * out, z


def test_the_chosen_way_is_called_for_its_rows_and_bitsandbytes_for_more(fresh, monkeypatch):
    fused, _ = group_of(bias=False, A=A)
    plain = {rows: fused(X.repeat(8, 1)[:rows])[0] for rows in (1, 3, 33)}
    shape = next(shape for shape, _ in products._ways)
    products._ways[shape, 4] = doubled
    for rows, factor in ((1, 1), (3, 2), (33, 1)):
        assert torch.equal(fused(X.repeat(8, 1)[:rows])[0], factor * plain[rows])


def test_a_shape_is_timed_once_for_each_bucket(fresh, monkeypatch):
    def ours(decode: str, count: int) -> dict:
        return {f"{decode} {place}": products.by_bitsandbytes for place in range(count)}

    monkeypatch.setattr(products, "_ours", ours)
    times = iter(range(1, 1000))
    _, first = group_of(bias=False, A=A, clock=lambda run: next(times))
    used = next(times)
    Nf4Linear(first, None, stack(first), lambda run: next(times))  # another bank
    group_of(bias=False, A=A, clock=lambda run: next(times))  # another layer
    assert next(times) == used + 1
    assert {rows for _, rows in products._ways} == {1, 4, 8, 16, 32}

"""Products with nf4 weights: the kernels without a card, the choice between them, and the stacked layers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

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

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")


# --- the kernels, interpreted ------------------------------------------------------------------

# Rows, outputs, features, rank, type, extras and which of the plans.
CASES = [
    (1, 10, 64, 0, "float32", "", 0),
    (1, 33, 192, 3, "float16", "gates", 0),
    (1, 21, 576, 24, "bfloat16", "bias gates view", 0),
    (1, 7, 4096, 5, "float16", "bias view", 0),
    (1, 9, 2112, 3, "float32", "gates", 1),
    (1, 9, 4160, 3, "bfloat16", "", 2),
    (2, 70, 64, 3, "float32", "bias", 0),
    (3, 70, 192, 24, "float16", "bias gates view", 0),
    (5, 65, 576, 0, "float16", "", 1),
    (5, 30, 2112, 24, "bfloat16", "bias gates", 0),
    (17, 130, 576, 24, "float32", "gates", 0),
    (17, 129, 192, 3, "bfloat16", "", 1),
    (32, 64, 64, 0, "float16", "bias", 0),
    (32, 40, 4096, 3, "float32", "bias gates", 0),
]


def run_python(code: list[str], stdin: str = "", **environment: str) -> str:
    settings = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment}
    done = subprocess.run(
        [sys.executable, *code], input=stdin, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def interpreted() -> dict[str, list[float]]:
    """The errors of all cases: one fresh process, since the interpreter must be chosen before the import."""
    script = str(Path(__file__).with_name("nf4_interpreted.py"))
    cases = json.dumps([json.dumps(case) for case in CASES])
    return json.loads(run_python([script], cases, TRITON_INTERPRET="1"))


@needs_triton
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(part) for part in case))
def test_a_kernel_gives_the_product_with_the_dequantised_weights(interpreted, case):
    # The interpreter truncates where a card rounds, so bfloat16 is off by an epsilon.
    limit = max(torch.finfo(getattr(torch, case[4])).eps, 2e-6)
    assert max(interpreted[json.dumps(case)]) < limit


# --- the kernels, compiled without a card ------------------------------------------------------

COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from composer.model.runtime.nf4.few_rows import few_rows_kernel
from composer.model.runtime.nf4.one_row import one_row_kernel
from composer.model.runtime.nf4.plan import FewRows, plans

POINTERS = {"words_ptr": "*i32", "absmax_ptr": "*fp32", "sums_ptr": "*fp32"}

def compiled(kernel, constants, card, options):
    names = kernel.arg_names
    kinds = {
        name: "constexpr" if name in constants
        else POINTERS.get(name, "*bf16") if name.endswith("_ptr") else "i32"
        for name in names
    }
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if "ptr" in name}
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, kinds, values, aligned)
    return triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)

shared = {"DECODE": 1, "KIND": 2, "BIAS": True, "SCALE": True}
for card in (80, 90):
    one, few = plans(1, 4096, 4096)[0], plans(8, 4096, 4096)[0]
    constants = {"BLOCKS": one.blocks, "RANK_WIDTH": one.rank_width, "RANK_STEP": one.rank_step, **shared}
    made = compiled(one_row_kernel, constants, card, {"num_warps": one.warps})
    assert made.asm["ptx"].count("shfl.sync.idx") >= 128, "32 lanes decode 16 words of 8 weights each"
    constants = {
        "ROWS": few.rows, "WIDTH": few.width, "STEP": few.step, "SPLIT": False, "INTERPRETED": False, **shared
    }
    made = compiled(few_rows_kernel, constants, card, {"num_warps": few.warps, "num_stages": few.stages})
    assert "mma" in made.asm["ptx"]
    # What an A100 has for a program; larger cards have more.
    assert made.metadata.shared <= 163 * 1024
"""


@needs_triton
@pytest.mark.slow
def test_the_kernels_compile_for_cards_that_are_not_here(tmp_path):
    run_python(["-c", COMPILE], TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")


# --- decoding by shuffles ----------------------------------------------------------------------


def carry_out(ptx: str, words: list[int]) -> list[list[float]]:
    """What the text of PTX computes in 32 lanes, each with its own word: 8 numbers a lane."""
    lanes: list[dict[str, object]] = [{"$8": word, "%laneid": lane} for lane, word in enumerate(words)]
    for line in re.findall(r"^(?!\.reg)([a-z][\w.]*) (.*);$", ptx, re.MULTILINE):
        operation, names = line[0].split(".")[0], [name.strip() for name in line[1].split(",")]
        before = [dict(lane) for lane in lanes]
        for at, lane in enumerate(lanes):

            def value(name: str, own: dict[str, object] = before[at]) -> object:
                if name.startswith("0f"):
                    return torch.tensor(int(name[2:], 16)).to(torch.uint32).view(torch.float32).item()
                return own[name] if name in own else int(name, 0)

            target, *given = names
            if operation == "shfl":
                source, index, clamp, everyone = given
                assert (int(clamp, 0), int(everyone, 0)) == (0x101F, 0xFFFFFFFF)
                lane[target] = before[(at & 16) | (value(index) & 15)][source]
            else:
                lane[target] = {
                    "mov": lambda a: a,
                    "and": lambda a, b: a & b,
                    "shr": lambda a, b: a >> b,
                    "setp": lambda a, b: a != b,
                    "selp": lambda a, b, which: a if which else b,
                }[operation](*map(value, given))
    return [[lane[f"${place}"] for place in range(8)] for lane in lanes]


@needs_triton
def test_shuffles_decode_the_weights_of_a_word_in_order():
    code = "from composer.model.runtime.nf4.decode import shuffle_asm; print(shuffle_asm())"
    ptx = run_python(["-c", code])
    table = bitsandbytes.functional.get_4bit_type("nf4", device="cpu")
    nibbles = torch.randint(16, (32, 8), generator=torch.Generator().manual_seed(1))
    nibbles[0], nibbles[1] = torch.arange(8), torch.arange(8, 16)
    packed = (nibbles[:, ::2] << 4 | nibbles[:, 1::2]).to(torch.uint8)  # as bitsandbytes packs
    words = [int.from_bytes(bytes(row.tolist()), "little") for row in packed]
    assert torch.equal(torch.tensor(carry_out(ptx, words)), table[nibbles])


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
    assert isinstance(fuse_linears(layers(nested=True), A), UnfusedLinear)


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

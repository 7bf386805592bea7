"""The kernels for nf4 weights without a card: interpreted, compiled, and what their text of PTX computes.

Each in a process of its own, since Triton's interpreter must be chosen before triton is imported.
"""

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

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")

ROOT = Path(__file__).parents[2]

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
    constants = {"BLOCKS": one.blocks, "RANK_WIDTH": one.rank_width, "RANK_CHUNK": one.rank_step, **shared}
    made = compiled(one_row_kernel, constants, card, {"num_warps": one.warps})
    assert made.asm["ptx"].count("shfl.sync.idx") >= 128, "32 lanes decode 16 words of 8 weights each"
    constants = {"ROWS": few.rows, "WIDTH": few.width, "CHUNK": few.step, **shared}
    constants |= {"SPLIT": False, "INTERPRETED": False}
    made = compiled(few_rows_kernel, constants, card, {"num_warps": few.warps, "num_stages": few.stages})
    assert "mma" in made.asm["ptx"]
    # What an A100 has for a program; larger cards have more.
    assert made.metadata.shared <= 163 * 1024
"""


def test_the_kernels_compile_for_cards_that_are_not_here(tmp_path):
    run_python(["-c", COMPILE], TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")


# --- decoding by shuffles ----------------------------------------------------------------------


def emulate(ptx: str, words: list[int]) -> list[list[float]]:
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


def test_shuffles_decode_the_weights_of_a_word_in_order():
    code = "from composer.model.runtime.nf4.decode import shuffle_asm; print(shuffle_asm())"
    ptx = run_python(["-c", code])
    table = bitsandbytes.functional.get_4bit_type("nf4", device="cpu")
    nibbles = torch.randint(16, (32, 8), generator=torch.Generator().manual_seed(1))
    nibbles[0], nibbles[1] = torch.arange(8), torch.arange(8, 16)
    packed = (nibbles[:, ::2] << 4 | nibbles[:, 1::2]).to(torch.uint8)  # as bitsandbytes packs
    words = [int.from_bytes(bytes(row.tolist()), "little") for row in packed]
    assert torch.equal(torch.tensor(emulate(ptx, words)), table[nibbles])

"""The compiled step with fewer instructions than this processor has: a laptop's, and none but SSE2."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# What a compiler calls the processor, and the instructions that it has to have here too.
PROCESSORS = {"x86-64": (), "haswell": ("avx2", "fma", "f16c")}
TESTS = (
    "test_the_compiled_step_computes_what_the_pass_does",
    "test_it_multiplies_with_every_storage",
    "test_heads_of_any_width",
    "test_adapters_in_bfloat16",
    "test_it_attends_to_the_window_alone",
    "test_tokens_share_out_their_gates",
    "test_it_reads_short_prompts_as_the_pass_does",
    "test_the_compiled_step_decodes_them_to_the_bit",
    "test_with_adapters_it_computes_what_the_dense_copy_does",
)
RUN = """
import sys

import pytest

from composer.model.runtime.native import library

library.FLAGS = tuple(sys.argv[1] if flag == "-march=native" else flag for flag in library.FLAGS)
assert sys.argv[1] in library.FLAGS
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are of x86 processors")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_step_computes_the_same_with_fewer_instructions(processor, tmp_path):
    had = Path("/proc/cpuinfo").read_text("utf-8").split() if Path("/proc/cpuinfo").is_file() else ()
    if missing := [each for each in PROCESSORS[processor] if each not in had]:
        pytest.skip(f"this processor has no {', '.join(missing)}")
    here = Path(__file__).parent
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(tmp_path / "inner"),
        "-k",
        " or ".join(TESTS),
    ]
    files = [str(here / name) for name in ("test_native.py", "test_nf4_on_cpu.py")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, f"-march={processor}", *options, *files],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=here.parents[1],
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "failed" not in done.stdout

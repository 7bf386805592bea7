"""Start-up: a fresh process until its first token is on the pipe, and what loading an adapter takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

import composer
from benchmarks.fixture import USUAL, BenchFixture, add, write_catalog
from benchmarks.plan import Plan, prompt_of
from benchmarks.timing import Measurement, quantile, summary, timed
from composer.core.errors import ComposerError


@dataclass(frozen=True)
class _Start:
    """One start of a process."""

    # From before the process was started to its first token.
    first: Measurement
    # Bytes of RAM at that moment. Not the system's peak, which counts the parent process too.
    memory: int


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """Seconds to the first token, with files in the system's cache; seconds per adapter; memory."""
    catalog = write_catalog(fixture)
    prompt = prompt_of(fixture.count_tokens, plan.preview_prompt)
    starts = [_start(fixture, catalog, prompt) for _ in range(plan.starts)]
    starts = starts[1:] or starts
    engine = fixture.fresh()
    loads = [timed(lambda path=path: add(engine, [path]), fixture.device) for path in fixture.adapters]
    return {
        "adapters": USUAL,
        "first_token": summary([start.first for start in starts]),
        "memory": int(quantile([start.memory for start in starts], 0.5)),
        "adapter_load": summary(loads),
    }


def _start(fixture: BenchFixture, catalog: Path, prompt: str) -> _Start:
    weights = ",".join(f"{path.name}=1" for path in fixture.adapters[:USUAL])
    argv = ["generate", "--catalog", str(catalog), "--prompt", prompt, "--weights", weights]
    command = [sys.executable, "-m", "composer", *argv, "--max-new-tokens", "2", "--temperature", "0"]
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=Path(composer.__file__).parents[1],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process.stdout:
        # The command line flushes with each token, and not before the first.
        process.stdout.read(1)
        seconds = time.perf_counter() - began
        memory = psutil.Process(process.pid).memory_info().rss
        process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise ComposerError(
            "The start-up run failed; see why with: python -m composer generate --prompt Hello --verbose."
        )
    return _Start(Measurement(seconds, used.ru_utime + used.ru_stime), memory)

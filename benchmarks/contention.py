"""Decoding beside other busy processes, by how long OpenMP's threads spin before they sleep.

Threads that spin at a barrier keep the core that the thread they wait for needs. What that costs depends on
the machine's other load, so every way of waiting is measured on a quiet machine, beside one busy process, and
beside one for each core. The setting is read when a process starts, so each way has a process of its own;
they take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import composer
from benchmarks.fixture import BenchFixture, write_catalog
from benchmarks.plan import Plan
from benchmarks.timing import Measurement, interleave
from composer.core.errors import ComposerError
from composer.core.threads import SPIN, SPIN_COUNT

# libgomp's own count where nothing is set, so that the arm is the same whatever this project sets.
ARMS: Mapping[str, Mapping[str, str]] = {
    "default": {SPIN: SPIN_COUNT},
    "unset": {SPIN: "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 0": {SPIN: "0"},
    "spin 20000": {SPIN: "20000"},
}
BUSY = "while True: pass"


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """loads: how many busy processes -> arm -> seconds per decoded token with three adapters, compiled."""
    if fixture.device.type != "cpu":
        raise ComposerError("Decoding beside busy processes is measured on a CPU; leave contention out.")
    file, cores = write_catalog(fixture), os.cpu_count() or 1
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(file, ARMS[name])) for name in plan.waits}
        arms = {name: worker.turn(plan.tokens) for name, worker in workers.items()}
        loads = {}
        for count in sorted({0, 1, cores}):
            with busy(count):
                loads[str(count)] = interleave(arms, plan.contention_rounds)
    return {"cores": cores, "tokens": plan.tokens, "loads": loads}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """That many processes that compute and nothing else."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Worker:
    """A process that decodes when it is told to; see benchmarks.contention_worker."""

    def __init__(self, file: Path, env: Mapping[str, str]):
        cleared = {name: value for name, value in os.environ.items() if name not in (SPIN, "OMP_WAIT_POLICY")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contention_worker", str(file)],
            cwd=Path(composer.__file__).parents[1],
            env=cleared | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Worker:
        self._ask("")  # not before it is warm: the next one would compile beside it
        return self

    def __exit__(self, *_fault: object) -> None:
        # It holds nothing worth waiting for, and one that hangs must not outlive the bench.
        self._process.kill()
        self._process.communicate()

    def turn(self, tokens: int):
        """The arm that has it decode so many tokens."""
        return lambda: Measurement(*self._ask(str(tokens)))

    def _ask(self, line: str) -> Sequence[float]:
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as fault:
            raise ComposerError(
                "A process of the bench ended early; see why with: "
                "python -m composer generate --prompt Hello --verbose."
            ) from fault

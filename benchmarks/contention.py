"""Decoding beside other busy processes, by how long OpenMP's threads spin before they sleep.

Threads that spin at a barrier keep the core that the thread they wait for needs. What that costs depends on
the machine's other load, so every way of waiting is measured on a quiet machine, beside one busy process, and
beside one for each core. The setting is read when a process starts, so each way has a process of its own;
they take turns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks.fixture import USUAL, BenchFixture, write_catalog
from benchmarks.plan import Plan, SectionLeftOut
from benchmarks.processes import Worker, busy
from benchmarks.timing import interleave
from composer.core.threads import SPIN, SPIN_COUNT

# libgomp's own count where nothing is set, so that the arm is the same whatever this project sets.
ARMS: Mapping[str, Mapping[str, str]] = {
    "default": {SPIN: SPIN_COUNT},
    "unset": {SPIN: "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 0": {SPIN: "0"},
    "spin 20000": {SPIN: "20000"},
}


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """loads: how many busy processes -> arm -> seconds per decoded token with three adapters, compiled."""
    if fixture.device.type != "cpu":
        raise SectionLeftOut("The section contention is for a CPU.")
    file, cores = write_catalog(fixture), os.cpu_count() or 1
    first = {"adapters": USUAL, "tokens": 2}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker("benchmarks.decode_worker", file, "same", env=ARMS[name], first=first)
            )
            for name in plan.waits
        }
        arms = {name: worker.turn(adapters=USUAL, tokens=plan.tokens) for name, worker in workers.items()}
        loads = {}
        for count in sorted({0, 1, cores}):
            with busy(count):
                loads[str(count)] = interleave(arms, plan.contention_rounds)
    return {"cores": cores, "tokens": plan.tokens, "loads": loads}

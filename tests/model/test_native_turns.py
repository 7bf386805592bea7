"""The compiled step's threads and those that call it have their share of a core in short turns."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable

import pytest
import torch

from composer.core.threads import run_in_short_lived_thread
from composer.model.runtime.native import structures as c
from composer.model.runtime.native.team import Team
from tests.tools import tiny

SHORTEST = 100_000  # nanoseconds
# sched_setattr(2) and sched_getattr(2), which the C library has no functions for.
CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
ATTRIBUTES = "IIQiIQQQ"  # size, policy, flags, nice, priority, runtime, deadline, period
SIZE = struct.calcsize(ATTRIBUTES)
LONG = 3_000_000


def turn_of(thread: int) -> tuple[int, int]:
    """Nanoseconds of a thread's turn, 0 where the system does not say, and its niceness."""
    found = ctypes.create_string_buffer(SIZE)
    if ctypes.CDLL(None).syscall(CALLS[platform.machine()][1], thread, found, SIZE, 0) != 0:
        return 0, 0
    _, _, _, nice, _, turn, _, _ = struct.unpack(ATTRIBUTES, found.raw)
    return turn, nice


def in_a_thread_with_long_turns(work: Callable[[], object], nice: int) -> tuple[int, int]:
    """The turn and the niceness of a thread after `work`, which began with LONG and `nice`."""

    def run() -> tuple[int, int]:
        asked = struct.pack(ATTRIBUTES, SIZE, 0, 0, nice, 0, LONG, 0, 0)
        ctypes.CDLL(None).syscall(CALLS[platform.machine()][0], 0, asked, 0)
        if turn_of(0) != (LONG, nice):
            pytest.skip("this system gives no thread a turn of its own; Linux does from 6.12 on")
        work()
        return turn_of(0)

    if platform.system() != "Linux" or platform.machine() not in CALLS:
        pytest.skip("turns are Linux's")
    return run_in_short_lived_thread(run)


def threads() -> set[int]:
    """Those of this process."""
    return {int(each) for each in os.listdir("/proc/self/task")}


@pytest.fixture
def step(tmp_path):
    """Reads a short prompt with the compiled step."""
    engine = tiny.engine("llama", tiny.three_unlike(tmp_path, "llama"))
    engine.runner.compile()
    gates = torch.ones(1, engine.model.layers, 3)
    return lambda: engine.runner.read(engine.snapshot.layout, gates, [[1, 2, 3]])


def test_short_turns_are_asked_for_once_a_thread_calls_the_step_and_its_niceness_stays(step):
    assert in_a_thread_with_long_turns(lambda: None, 3) == (LONG, 3)
    assert in_a_thread_with_long_turns(step, 3) == (SHORTEST, 3)


def test_the_threads_of_a_team_have_short_turns():
    before = threads()
    # A step of no rows, so that all of them have begun.
    in_a_thread_with_long_turns(lambda: Team(3).decode(c.Model(), c.Step()), 0)
    assert [turn_of(each)[0] for each in threads() - before] == [SHORTEST] * 2

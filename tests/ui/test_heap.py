"""Freed memory goes back to the system while a server works."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Blocks as small as an adapter's matrices, every second one freed: glibc keeps those.
FREED = """
import json, psutil, time
from composer.ui import heap
from threading import enumerate as threads

def held():
    return psutil.Process().memory_info().rss

heap.WORKED = {worked}
blocks = [bytearray(b"x" * 40_000) for _ in range(5_000)]
full = held()
blocks[::2] = [None] * len(blocks[::2])
freed = held()
with heap.trimmed(every=0.05):
    end = time.monotonic() + 5
    while held() > 0.8 * freed and time.monotonic() < end:
        pass
    after = held()
print(json.dumps([freed / full, after / full, [each.name for each in threads()]]))
"""


def shares(worked: float) -> list:
    code = FREED.format(worked=worked)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_is_freed_between_others_blocks_goes_back_and_the_thread_ends():
    freed, after, threads = shares(worked=0)
    assert freed > 0.9, "the system has it back already: nothing is tested here"
    assert after < 0.8
    assert threads == ["MainThread"]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_process_that_does_nothing_is_left_alone():
    _, after, _ = shares(worked=1_000)
    assert after > 0.9

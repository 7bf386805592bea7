"""Processes of the bench: those that decode when they are asked to, and those that only keep a core busy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import composer
from benchmarks.timing import Measurement
from composer.core.errors import ComposerError
from composer.core.threads import SPIN

BUSY = "while True: pass"
WAITING = (SPIN, "OMP_WAIT_POLICY")
SEE_WHY = "python -m composer generate --prompt Hello --verbose"


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
    """A process that answers a line of JSON with a line of JSON, one at a time.

    arguments: a module of the benchmarks and its arguments. env: how its OpenMP threads wait; what this
    process itself has set for that is not passed on. first: asked when it is entered, so that it is ready.
    """

    def __init__(self, *arguments: object, env: Mapping[str, str], first: Mapping[str, object]):
        cleared = {name: value for name, value in os.environ.items() if name not in WAITING}
        self._first = first
        # What it answered last.
        self.answer: Mapping = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=Path(composer.__file__).parents[1],
            env=cleared | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Worker:
        self.ask(**self._first)  # not before it is warm: the next one would compile beside it
        return self

    def __exit__(self, *_fault: object) -> None:
        # It holds nothing worth waiting for, and one that hangs must not outlive the bench.
        self._process.kill()
        self._process.communicate()

    def turn(self, **asked: object) -> Callable[[], Measurement]:
        """The arm that has it decode what is asked."""
        return lambda: Measurement(*self.ask(**asked)["reading"])

    def ask(self, **asked: object) -> Mapping:
        """Its answer. Raises ComposerError where the process has ended."""
        try:
            self._process.stdin.write(f"{json.dumps(asked)}\n")
            self._process.stdin.flush()
            self.answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as fault:
            raise ComposerError(f"A process of the bench ended early; see why with: {SEE_WHY}.") from fault
        return self.answer

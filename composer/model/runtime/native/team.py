"""The threads that a compiled step runs on: one team a process, as large as torch's."""

from __future__ import annotations

import ctypes
from functools import cache
from threading import Lock

from composer.core.errors import ComposerError
from composer.model.runtime.cores import cores
from composer.model.runtime.native import structures as c
from composer.model.runtime.native.library import step_library


class Team:
    """Runs one step at a time, whoever asks. Its threads sleep between steps."""

    def __init__(self, size: int):
        self._library, self._running = step_library(), Lock()
        self._handle = self._library.team_new(size)
        if not self._handle:
            raise ComposerError("The system gives this process no more threads.")

    def decode(self, model: c.Model, step: c.Step) -> None:
        """Run a step; see structures.Step for what it reads and writes. Raises MemoryError."""
        with self._running:
            failed = self._library.decode(self._handle, ctypes.byref(model), ctypes.byref(step))
        if failed:
            raise MemoryError("not enough memory for a decoding step")


@cache
def team() -> Team:
    """The process's team, made when it is first asked for. Raises CompilerError as step_library."""
    return Team(cores().count)

"""Compiling the decoding step, in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from threading import Lock, Thread

from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.runner import ModelRunner

log = logging.getLogger(__name__)

# Serialised: compilers take all cores, and the weights are packed once for all who share them.
_compiling = Lock()


class Compilation:
    """A compilation under way. It changes the runner when it is through, and nothing when it fails.

    verify: raises where a compiled runner computes other logits than the base.
    """

    def __init__(self, decode: ModelRunner, verify: Callable[[ModelRunner], object] = lambda made: None):
        self._compiled = isinstance(decode, NativeRunner) and decode.compiled
        self._thread: Thread | None = None
        if isinstance(decode, NativeRunner) and not decode.compiled:
            self._start(partial(decode.compile, verify))

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the step is compiled, after waiting for at most `timeout` seconds.

        False too where there is nothing to compile: for bases outside the families of
        composer.model.architectures, and without a C++ compiler.
        """
        if self._thread is not None:
            self._thread.join(timeout)
        return self._compiled

    def _start(self, work: Callable[[], None]) -> None:
        self._thread = Thread(target=self._run, args=(work,), name="compiling", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        with _compiling:
            try:
                work()
                self._compiled = True
            except Exception as fault:  # whatever a compiler may come up with: decoding goes on without it
                reason = str(fault).split("\n")[0][:200]
                log.warning("the decoding step stays uncompiled (%s); texts come slower", reason)

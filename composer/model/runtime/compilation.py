"""Compiling the decoding step, in the background."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable
from functools import partial
from threading import Event, Lock, Thread

from composer.model.checkpoints.converted import cache_folder
from composer.model.rank_layout import Layout
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.graphs.warm_up import warm_up
from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.runner import ModelRunner

log = logging.getLogger(__name__)

# Serialised: compilers take all cores and are not safe for two compilations in one process, and the weights
# are packed once for all who share them.
_compiling = Lock()
# Seconds that the end of the process waits for a compilation to notice it.
END_WAIT = 5.0


class _Ending(Exception):
    """The process ends."""


class Compilation:
    """A compilation under way. It changes the runner when it is through, and nothing when it fails.

    layout: of the adapters that are loaded; a GPU captures graphs for what they can need. verify: raises
    where a compiled runner computes other logits than the base. finished: called when it is through or has
    failed, or at once where there is nothing to compile.
    """

    def __init__(
        self,
        decode: ModelRunner,
        layout: Layout,
        verify: Callable[[ModelRunner], object] = lambda made: None,
        finished: Callable[[], object] = lambda: None,
    ):
        self._compiled, self._finished, self._ending = False, finished, Event()
        self._thread: Thread | None = None
        if work := _work(decode, layout, verify, self._check):
            self._thread = Thread(target=self._run, args=(work,), name="compiling", daemon=True)
            # A thread that is in torch's code when the interpreter ends takes the process down with it.
            atexit.register(self._end)
            self._thread.start()
        else:
            finished()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the step is compiled, after waiting for at most `timeout` seconds.

        False too where there is nothing to compile: for bases outside the families of
        composer.model.architectures, and without a compiler.
        """
        if self._thread is not None:
            self._thread.join(timeout)
        return self._compiled

    def _check(self) -> None:
        if self._ending.is_set():
            raise _Ending

    def _end(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(END_WAIT)

    def _run(self, work: Callable[[], bool]) -> None:
        with _compiling:
            try:
                self._check()
                self._compiled = work()
            except _Ending:
                return
            except Exception as fault:  # whatever a compiler may come up with: decoding goes on without it
                reason = str(fault).split("\n")[0][:200]
                log.warning("the decoding step stays uncompiled (%s); texts come slower", reason)
        atexit.unregister(self._end)
        self._finished()


Check = Callable[[], object]


def _work(
    decode: ModelRunner, layout: Layout, verify: Callable[[ModelRunner], object], check: Check
) -> Callable[[], bool] | None:
    if isinstance(decode, NativeRunner):
        return partial(_on_cpu, decode, verify, check)
    return partial(_on_gpu, decode, layout, check) if isinstance(decode, CudaGraphRunner) else None


def _on_cpu(decode: NativeRunner, verify: Callable[[ModelRunner], object], check: Check) -> bool:
    if not decode.compiled:
        decode.compile(verify, check)
    return True


def _on_gpu(decode: CudaGraphRunner, layout: Layout, check: Check) -> bool:
    # In this thread: a pool of compiling processes would outlive its use and take memory for each.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # The user's own folder: what inductor keeps there is code, and is loaded as code.
    folder = cache_folder() / "compiled"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    return warm_up(decode, layout, check)

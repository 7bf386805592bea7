"""Compiling the decoding step for one row, in the background, with what was compiled kept on disk."""

from __future__ import annotations

import logging
import os
from threading import Lock, Thread
from types import FunctionType

import torch

from composer.model.base import cache_folder
from composer.model.kv import ROOM, KVCache
from composer.model.layout import Layout
from composer.model.llama import LlamaPass, decode_layer
from composer.model.step import Inputs, Pass
from composer.model.table import Under

log = logging.getLogger(__name__)

# The compiler is one for the whole process and does not like company.
_compiling = Lock()


class WarmUp:
    """A compilation under way. It changes the pass when it is through, and nothing when it fails."""

    def __init__(self, decode: Pass, layout: Layout):
        self._compiled = False
        self._thread: Thread | None = None
        if isinstance(decode, LlamaPass) and layout.owner.device.type == "cpu":
            self._thread = Thread(target=self._run, args=(decode, layout), name="compiling", daemon=True)
            self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the step is compiled, after waiting for at most `timeout` seconds.

        False too where there is nothing to compile: on a GPU, where CUDA graphs do more, for bases outside
        the Llama family, and without a C++ compiler.
        """
        if self._thread is not None:
            self._thread.join(timeout)
        return self._compiled

    def _run(self, decode: LlamaPass, layout: Layout) -> None:
        # The user's own folder: what inductor keeps there is code, and is loaded as code.
        folder = cache_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
        # In this thread: a pool of compiling processes would outlive its use and take memory for each.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        with _compiling:
            try:
                table = decode.table(layout)
                if not table.kinds <= decode.compiled[1]:
                    run = torch.compile(_copy(decode_layer))
                    trial = _Trial(decode, run)
                    # Two reaches of attention, so that its length is compiled as one that varies.
                    for length in (64, 128):
                        trial.step(Under.of(table, table.layout.scaling[None].to(layout.dtype)), length)
                    decode.compiled = run, table.kinds
                self._compiled = True
                log.info("the decoding step is compiled")
            except Exception as fault:  # whatever a compiler may come up with: decoding goes on without it
                reason = str(fault).split("\n")[0][:200]
                log.warning("the decoding step stays uncompiled (%s); texts come slower", reason)


def _copy(function: FunctionType) -> FunctionType:
    """The same function with code of its own.

    Compiled variants are kept by code and limited in number: after a few banks nothing would be compiled.
    """
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


class _Trial:
    """Passes over a cache of its own, so that the compiler sees what decoding will show it."""

    def __init__(self, decode: LlamaPass, run):
        self._decode, self._run = decode, run
        self._cache = KVCache(1, ROOM)
        self._cache.buffers = [decode.empty_buffer(self._cache) for _ in range(decode.layers)]

    def step(self, under: Under, length: int) -> None:
        device = under.flat.device
        tokens = torch.zeros(1, dtype=torch.int64, device=device)
        positions = torch.full((1,), length - 1, dtype=torch.int64, device=device)
        self._decode.run(under, Inputs(tokens, positions, length), self._cache, self._run)

"""Compiling the decoding step, in the background, with what was compiled kept on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from threading import Lock, Thread
from types import FunctionType, MappingProxyType

import torch

from composer.model.converted import cache_folder
from composer.model.rank_layout import Layout
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.graphs.warm_up import warm_up
from composer.model.runtime.kv_cache import LENGTH_MULTIPLE, KVCache
from composer.model.runtime.llama.layer import MANY
from composer.model.runtime.llama.layer_table import DecodePlan, LayerSegment, LayerTable
from composer.model.runtime.llama.runner import DecodeLayers, LlamaRunner, decode_layers
from composer.model.runtime.runner import Inputs, ModelRunner

log = logging.getLogger(__name__)

# Serialised: the compiler is not safe for two compilations in one process.
_compiling = Lock()


class Compilation:
    """A compilation under way. It changes the pass when it is through, and nothing when it fails.

    several: for batches of several rows too, which takes longer again.
    """

    def __init__(self, decode: ModelRunner, layout: Layout, several: bool = True):
        self._compiled = False
        self._thread: Thread | None = None
        work: Callable[[], bool] | None = None
        if isinstance(decode, CudaGraphRunner):
            work = partial(warm_up, decode, layout, several)
        elif isinstance(decode, LlamaRunner) and layout.adapter_index.device.type == "cpu":
            work = partial(_compile_all, decode, layout, several)
        if work is not None:
            self._thread = Thread(target=self._run, args=(work,), name="compiling", daemon=True)
            self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the step is compiled, after waiting for at most `timeout` seconds.

        False too where there is nothing to compile: for bases outside the Llama family, and without a
        compiler.
        """
        if self._thread is not None:
            self._thread.join(timeout)
        return self._compiled

    def _run(self, work: Callable[[], bool]) -> None:
        # In this thread: a pool of compiling processes would outlive its use and take memory for each.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        with _compiling:
            try:
                # The user's own folder: what inductor keeps there is code, and is loaded as code.
                folder = cache_folder() / "compiled"
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
                self._compiled = work()
                log.info("the decoding step is compiled")
            except Exception as fault:  # whatever a compiler may come up with: decoding goes on without it
                reason = str(fault).split("\n")[0][:200]
                log.warning("the decoding step stays uncompiled (%s); texts come slower", reason)


def _compile_all(decode: LlamaRunner, layout: Layout, several: bool) -> bool:
    """Compile the step of a CPU."""
    table = decode.table(layout)
    compiled = {}
    for alone in (True, False) if several else (True,):
        for kind, segment in {segment.kind: segment for segment in table.segments}.items():
            known = decode.compiled.get((kind, alone))
            compiled[kind, alone] = known or _compile(decode, table, segment, 1 if alone else 2)
        decode.compiled = MappingProxyType({**decode.compiled, **compiled})
    decode.compiled = MappingProxyType(compiled)
    return True


def _compile(decode: LlamaRunner, table: LayerTable, segment: LayerSegment, rows: int) -> DecodeLayers:
    """decode_layers compiled for one kind of segment.

    rows: 1, or 2 for any number from there to MANY. Without guards: checking before every call that the
    tensors are still what they were costs as much as a layer does. They are: the pass asks for this code by
    the segment's kind, for so many rows and this length.
    """
    unguarded = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    run = torch.compile(_copy(decode_layers), options=unguarded)
    cache = KVCache(rows, LENGTH_MULTIPLE)
    buffers = tuple(decode.empty_buffer(cache) for _ in segment.layers)
    device = table.layout.adapter_index.device
    zero = torch.zeros(rows, dtype=torch.int64, device=device)
    hidden, context = decode.embed(Inputs(zero, zero, LENGTH_MULTIPLE // 2), LENGTH_MULTIPLE)
    flat = table.layout.scaling.to(table.layout.dtype).expand(rows, -1).contiguous()  # [B, Z]
    scales = DecodePlan.of(table, flat).scales[segment.at]
    torch._dynamo.mark_dynamic(context.mask, 3)
    if rows > 1:
        for tensor in (hidden, context.rows, context.positions, context.mask, *scales, *buffers):
            torch._dynamo.mark_dynamic(tensor, 0, min=2, max=MANY - 1)
        torch._dynamo.mark_dynamic(context.rope_cos_sin, 1, min=2, max=MANY - 1)
    with torch.no_grad():
        run(segment.layers, decode.shape, hidden, context, scales, buffers, (None,) * len(segment.layers))
    return run


def _copy(function: FunctionType) -> FunctionType:
    """The same function with code of its own: what is compiled is kept by code, one for each here."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)

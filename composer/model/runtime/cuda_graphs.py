"""The Llama pass as CUDA graphs: a pass is a thousand small kernels, and a GPU waits for Python before each.

A graph is captured once per table, batch size and reach of attention, and replayed with new tokens, positions
and scales copied into its own inputs; other gates are other numbers in the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from composer.model.rank_layout import GateTelemetry, Layout
from composer.model.runtime.kv_cache import KVCache
from composer.model.runtime.llama.layer_table import DecodePlan, LayerTable
from composer.model.runtime.llama.runner import LlamaRunner
from composer.model.runtime.prefill import PrefillOutput
from composer.model.runtime.runner import Inputs
from composer.model.runtime.token_routing import RouterConfig

# Rows are padded up to one of these, or to a multiple of the last, so that few graphs are captured.
SIZES = (1, 2, 4, 8, 16, 24, 32)
# The shortest reach of attention; longer ones double it.
SHORTEST_BUCKET = 256

Replay = Callable[[], tuple[torch.Tensor, GateTelemetry | None]]


def capture(run: Replay) -> Replay:
    """Record what `run` launches, and return what launches it again and hands out the same outputs."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries make their workspaces on first use, which no graph may record
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # "thread_local": other threads may go on allocating, which only this thread's own capture must not see.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = run()

    def replay() -> tuple[torch.Tensor, GateTelemetry | None]:
        graph.replay()
        return outputs

    return replay


@dataclass(frozen=True)
class _Graph:
    """A captured pass and the inputs it reads."""

    plan: DecodePlan
    inputs: Inputs
    replay: Replay


class CudaGraphRunner:
    """LlamaPass under CUDA graphs; see composer.model.runtime.runner.ModelRunner.

    capture: how a pass is recorded; one that returns `run` itself makes a GraphPass without a GPU.
    """

    def __init__(self, inner: LlamaRunner, capture: Callable[[Replay], Replay] = capture):
        self._inner, self._capture = inner, capture

    def read(
        self,
        layout: Layout,
        gates: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        unembed: bool = True,
        every: bool = False,
        routes: Sequence[RouterConfig | None] = (),
    ) -> PrefillOutput:
        return self._inner.read(layout, gates, prompts, unembed, every, routes)

    def prepare(
        self, layout: Layout, gates: torch.Tensor, routes: Sequence[RouterConfig | None] = ()
    ) -> DecodePlan:
        return self._inner.prepare(layout, gates, routes)

    def trial(self) -> LlamaRunner:
        return self._inner.trial()

    @torch.no_grad()
    def __call__(
        self, plan: DecodePlan, inputs: Inputs, cache: KVCache
    ) -> tuple[torch.Tensor, GateTelemetry | None]:
        if plan.routing is not None:  # what is recorded is the pass without routes
            return self._inner(plan, inputs, cache)
        count = len(inputs.tokens)
        size = padded(count, cache.slots)
        length = length_bucket(inputs.length, cache.max_seq_len)
        # A cache keeps the graphs that write into it, and they go when it goes. A graph keeps its table
        # alive, so those of an earlier bank go as soon as the batch runs under another one.
        if any(graph.plan.table is not plan.table for graph in cache.graphs.values()):
            cache.graphs.clear()
        if (size, length) not in cache.graphs:
            cache.graphs[size, length] = self._record(plan.table, size, length, cache)
        graph: _Graph = cache.graphs[size, length]
        for mine, theirs in (
            (graph.inputs.tokens, inputs.tokens),
            (graph.inputs.positions, inputs.positions),
        ):
            mine.zero_()  # a row too many decodes token 0 at position 0 of a slot that nobody has
            mine[:count].copy_(theirs)
        graph.plan.flat.zero_()  # and under no gate: those of whoever was there before could overflow
        graph.plan.flat[:count].copy_(plan.flat)
        logits, telemetry = graph.replay()
        if telemetry is None:
            return logits[:count], None
        coded, energy = telemetry.coded[:count], telemetry.energy[:count]
        return logits[:count], GateTelemetry(coded, energy, telemetry.layout)

    def _record(self, table: LayerTable, size: int, length: int, cache: KVCache) -> _Graph:
        device = table.layout.adapter_index.device
        tokens, positions = (torch.zeros(size, dtype=torch.int64, device=device) for _ in range(2))
        flat = torch.zeros(size, len(table.layout.adapter_index), dtype=table.layout.dtype, device=device)
        plan, inputs = DecodePlan.of(table, flat), Inputs(tokens, positions, length)
        # Capturing writes at position 0 of the rows' slots; they are put back.
        kept = [buffer[:size, :, 0].clone() for buffer in cache.buffers]
        replay = self._capture(lambda: self._inner(plan, inputs, cache))
        for buffer, place in zip(cache.buffers, kept, strict=True):
            buffer[:size, :, 0] = place
        return _Graph(plan, inputs, replay)


def padded(count: int, slots: int) -> int:
    """The rows of the graph that serves `count`, at most `slots`."""
    size = next((size for size in SIZES if count <= size), -(-count // SIZES[-1]) * SIZES[-1])
    return min(size, slots)


def length_bucket(length: int, max_seq_len: int) -> int:
    """The least of REACH, 2 REACH, 4 REACH... that is no less than `length`, and at most `room`."""
    reached = SHORTEST_BUCKET
    while reached < length:
        reached *= 2
    return min(reached, max_seq_len)

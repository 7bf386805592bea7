"""What a GPU prepares while it serves: graphs of the likely shapes, compiled code, and the graphs of that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from threading import Event
from time import monotonic
from types import FunctionType

import torch

from composer.model.rank_layout import Layout
from composer.model.runtime.cuda_graphs import SHORTEST_BUCKET, SIZES, CudaGraphRunner, GraphShape
from composer.model.runtime.graphs.adapter_buffers import BufferedAdapters
from composer.model.runtime.graphs.kv_pool import BLOCK, KVPool, PagedBuffer
from composer.model.runtime.graphs.rank_padding import Bucket, rank_bucket
from composer.model.runtime.kv_cache import LENGTH_MULTIPLE
from composer.model.runtime.llama.layer import MANY
from composer.model.runtime.llama.layer_table import DecodePlan, LayerSegment
from composer.model.runtime.llama.runner import HEAD, decode_layers, next_logits
from composer.model.runtime.runner import Inputs

# Reaches of attention that are captured before a text is as long.
LENGTHS = (SHORTEST_BUCKET, 2 * SHORTEST_BUCKET, 4 * SHORTEST_BUCKET)
# Graphs that are captured before a batch asks for them.
MOST_EARLY = 64
# A capture holds the running texts up for three passes in Python. It waits for so long without a pass,
# and for the second at most; in seconds.
QUIET, PATIENCE = 0.05, 1.0


def warm_up(
    runner: CudaGraphRunner,
    layout: Layout,
    check: Callable[[], object] = lambda: None,
    compiling: bool = True,
) -> bool:
    """Capture graphs of the likely shapes, compile the step, and capture those that changed by it.

    layout: of the loaded adapters. check: called now and then; what it raises ends the work. Returns whether
    there is compiled code for all likely shapes. It may run beside passes of the runner in other threads.
    Raises what the compiler raises.
    """
    shapes = likely_shapes(layout, SIZES)
    # The widest bucket first: memory that grows later moves, and graphs that read it are captured anew.
    runner.adapters(max(shapes, key=lambda shape: shape.bucket.width))
    with runner.in_background(shapes) as queue:
        _record(runner, queue, check)
        compiled = False
        for bucket, rows in dict.fromkeys((shape.bucket, min(shape.rows, 2)) for shape in shapes):
            if not compiling:
                break
            own = [each for each in shapes if each.bucket == bucket and min(each.rows, 2) == rows]
            adapters = runner.adapters(own[0])
            runner.use(compile_step(adapters, runner.pool, rows, known=runner.compiled))
            compiled = True
            queue.extend(own)
            _record(runner, queue, check)
    return compiled


def likely_shapes(layout: Layout, sizes: tuple[int, ...]) -> list[GraphShape]:
    """The shapes that batches under some of the layout's adapters will have, the likeliest first."""
    buckets = list(_buckets(layout))
    ranked = [
        (sizes.index(rows) + LENGTHS.index(length) + place, GraphShape(bucket, rows, length, dtype))
        for place, (bucket, dtype) in enumerate(buckets)
        for length in LENGTHS
        for rows in sizes
    ]
    return [shape for _, shape in sorted(ranked, key=lambda each: each[0])][:MOST_EARLY]


def _buckets(layout: Layout) -> Iterator[tuple[Bucket, torch.dtype]]:
    """Of one adapter, of none, then of two and more."""
    count = len(layout.bank.names)
    cells = torch.bincount(
        layout.site * count + layout.adapter_index, minlength=len(layout.spans) * count
    )  # [S N]: columns
    ranks = (
        cells.view(len(layout.spans), count).amax(dim=0).sort(descending=True).values if len(cells) else cells
    )
    totals = [0, *ranks.cumsum(0).tolist()]
    found = [rank_bucket(total) for total in (*totals[1:2], 0, *totals[2:])]
    for rank in dict.fromkeys(each for each in found if each is not None):
        yield Bucket(tuple(layout.spans) if rank else (), rank), layout.dtype if rank else torch.float32


def _record(runner: CudaGraphRunner, queue: deque[GraphShape], check: Callable[[], object]) -> None:
    """Capture what is queued and not there yet. Batches put what they miss in front."""
    while queue:
        check()
        shape = queue.popleft()
        if runner.outdated(shape):
            _wait_for_quiet(runner)
            if not runner.try_record(shape):
                queue.clear()


def _wait_for_quiet(runner: CudaGraphRunner) -> None:
    end = monotonic() + PATIENCE
    while monotonic() - runner.last_pass < QUIET and monotonic() < end:
        Event().wait(QUIET)


def compile_step(
    adapters: BufferedAdapters, pool: KVPool, rows: int, known: Mapping[tuple[tuple, bool], Callable]
) -> dict[tuple[tuple, bool], Callable]:
    """A step compiled in parts, in the form that LlamaRunner.compiled has: decode_layers for each kind of
    layer of a table, and next_logits.

    rows: 1, or 2 for any number from there to MANY. known: what is compiled already.
    """
    work: dict[tuple, Callable[[], Callable]] = {HEAD: lambda: _compiled_head(adapters, rows)}
    for segment in adapters.table.segments:
        work[segment.kind] = lambda segment=segment: _compiled_layers(adapters, pool, segment, rows)
    alone = rows == 1
    return {(kind, alone): known.get((kind, alone)) or compiled() for kind, compiled in work.items()}


def _compiled_head(adapters: BufferedAdapters, rows: int) -> Callable:
    run, runner = _unguarded(next_logits), adapters.runner
    hidden = runner.embedding.new_zeros(rows, runner.embedding.shape[1])
    if rows > 1:
        torch._dynamo.mark_dynamic(hidden, 0, min=2, max=MANY - 1)
    with torch.no_grad():
        run(hidden, runner.norm, runner.head, runner.shape)
    return run


def _compiled_layers(adapters: BufferedAdapters, pool: KVPool, segment: LayerSegment, rows: int) -> Callable:
    """decode_layers for one kind of segment.

    The sizes that vary are marked; their examples differ, since the compiler takes equal ones for the same
    size.
    """
    run = _unguarded(decode_layers)
    pool.prepare()
    arena, blocks = pool.layers[0], torch.arange(2, 5, device=pool.layers[0].device)
    places = pool.places(blocks.expand(rows, -1))  # [B, 3 BLOCK]
    buffers = tuple(PagedBuffer(arena.new_zeros(5 * BLOCK, *arena.shape[1:]), places) for _ in segment.layers)
    zero = torch.zeros(rows, dtype=torch.int64, device=arena.device)
    runner, layout = adapters.runner, adapters.table.layout
    hidden, context = runner.embed(Inputs(zero, zero, places.shape[1]), LENGTH_MULTIPLE)
    flat = torch.zeros(rows, len(layout.adapter_index), dtype=layout.dtype, device=arena.device)
    scales = DecodePlan.of(adapters.table, flat).scales[segment.at]
    torch._dynamo.mark_dynamic(context.mask, 3)
    torch._dynamo.mark_dynamic(places, 1)
    for buffer in buffers:
        torch._dynamo.mark_dynamic(buffer.tokens, 0)
    if rows > 1:
        for tensor in (hidden, context.rows, context.positions, context.mask, *scales, places):
            torch._dynamo.mark_dynamic(tensor, 0, min=2, max=MANY - 1)
        torch._dynamo.mark_dynamic(context.rope_cos_sin, 1, min=2, max=MANY - 1)
    with torch.no_grad():
        run(segment.layers, runner.shape, hidden, context, scales, buffers, (None,) * len(segment.layers))
    return run


def _unguarded(function: FunctionType) -> Callable:
    """The function, to be compiled at its first call.

    Checking before every call that the tensors are still what they were costs as much as a layer does, and a
    layer's code must serve the others. They are what they were: code is asked for by its kind and the number
    of rows. It is of a copy with code of its own: what is compiled is kept by code, one for each here.
    """
    copy = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    return torch.compile(copy, options={"guard_filter_fn": lambda guards: [False] * len(guards)})

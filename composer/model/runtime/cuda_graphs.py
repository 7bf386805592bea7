"""The Llama pass as CUDA graphs: a pass is a thousand small kernels, and a GPU waits for Python before each.

A graph is captured once for a number of rows, a reach of attention and a bucket of adapters. It is replayed
for every batch of that shape. Tokens, positions, blocks of the cache and scales are copied into its own
inputs, and other adapters into buffers that it reads. So neither a new text nor another weight captures
anything.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple
from weakref import ref

import torch

from composer.model.rank_layout import GateTelemetry, Layout
from composer.model.runtime.graphs.adapter_buffers import AdapterBuffers, BufferedAdapters
from composer.model.runtime.graphs.capture import Capture, CudaCapture
from composer.model.runtime.graphs.kv_pool import (
    BLANK,
    BLOCK,
    SPARE,
    START_TOKENS,
    KVPool,
    PagedCache,
    stamps,
)
from composer.model.runtime.graphs.rank_padding import Bucket, RankPadding
from composer.model.runtime.graphs.routing import adapter_bucket, load_routes
from composer.model.runtime.kv_cache import KVCache
from composer.model.runtime.llama.layer_table import DecodePlan, grouped_layers
from composer.model.runtime.llama.llm_int8 import waits_for_host
from composer.model.runtime.llama.runner import HEAD, LlamaRunner
from composer.model.runtime.prefill import PrefillOutput
from composer.model.runtime.runner import Inputs
from composer.model.runtime.token_routing import RouterConfig, TokenRouter

log = logging.getLogger(__name__)

# Rows are padded up to one of these, or to a multiple of the last, so that few graphs are captured.
SIZES = (1, 2, 4, 8, 16, 24, 32)
# The shortest reach of attention; longer ones double it.
SHORTEST_BUCKET = 256
# Graphs that are kept. Those that were not replayed for longest go first.
MOST_GRAPHS = 160
# Sets of adapters whose padding is remembered, so that switching back costs a copy at most.
MOST_LAYOUTS = 8

PassOutput = tuple[torch.Tensor, GateTelemetry | None]


class GraphShape(NamedTuple):
    """What a graph is captured for."""

    bucket: Bucket
    rows: int
    # Positions that attention covers.
    length: int
    dtype: torch.dtype
    # How many adapters rows may be routed among, one of routing.ADAPTERS; 0: no row is token-routed.
    adapters: int = 0


@dataclass(frozen=True)
class GraphPlan:
    """What a batch decodes with: a layout, the rows' scales on its padded rank axis, and their routes."""

    layout: Layout
    padding: RankPadding
    scales: torch.Tensor  # [B, Zp]
    stamp: int
    # On the layout's own axis; None where no row is token-routed.
    router: TokenRouter | None = None

    @property
    def adapters(self) -> int:
        """See GraphShape."""
        return 0 if self.router is None else adapter_bucket(len(self.layout.bank.names)) or 0


@dataclass
class _Graph:
    """A captured pass and the inputs it reads."""

    tokens: torch.Tensor  # [S]
    positions: torch.Tensor  # [S]
    blocks: torch.Tensor  # [S, length / BLOCK]
    scales: torch.Tensor  # [S, Zp]
    replay: Callable[[], PassOutput]
    # Whether what was captured is compiled code, or never will be.
    compiled: bool
    router: TokenRouter | None
    # Of the plan and the cache that the inputs are from, and the number of rows.
    filled: tuple[int, int, int] | None = None


class CudaGraphRunner:
    """LlamaRunner under CUDA graphs; see composer.model.runtime.runner.ModelRunner.

    Several batches may run at once, in threads of their own: their passes are launched one after another, and
    each has its own blocks of the pool. Passes that no graph is made for run as they are: ranks beyond the
    last bucket, rows routed among more adapters than the last of routing.ADAPTERS, and caches that do not
    come from `cache`. Token-routed rows are captured, and not compiled.

    capture: how a pass is recorded; one that returns `run` itself makes a CudaGraphRunner without a GPU.
    tokens: of the pool at first.
    """

    def __init__(self, inner: LlamaRunner, capture: Capture | None = None, tokens: int = START_TOKENS):
        self._inner = inner
        self.pool = KVPool.of(inner, tokens)
        self._capture = capture or CudaCapture(self.pool.device)
        self._lock = self.pool.lock
        self._graphs: OrderedDict[GraphShape, _Graph] = OrderedDict()
        self._versions = (0, 0)
        self._paddings: deque[tuple[ref[Layout], RankPadding | None]] = deque(maxlen=MOST_LAYOUTS)
        self._made_buffers: AdapterBuffers | None = None
        self._loaded: tuple[BufferedAdapters, ref[Layout]] | None = None
        self._compiled: dict[tuple[tuple, bool], Callable] = {}
        self._uncapturable = any(map(waits_for_host, grouped_layers(inner.blocks)))
        # Shapes that wait for a capture in the background; None: they are captured when they are met.
        self._awaited: deque[GraphShape] | None = None
        # How many graphs were captured, and when the last pass ran, by the monotonic clock.
        self.captured = 0
        self.last_pass = 0.0

    def cache(self, slots: int, max_seq_len: int) -> PagedCache:
        """A cache in the pool, for one batch."""
        self.pool.prepare()
        return PagedCache(self.pool, slots, max_seq_len)

    @property
    def inner(self) -> LlamaRunner:
        """The runner whose passes are captured."""
        return self._inner

    @property
    def capture(self) -> Capture:
        return self._capture

    @property
    def adapter_memory(self) -> torch.Tensor | None:
        """The adapters' buffers, one after another; None before any is needed."""
        return self._buffers.memory

    def trial(self) -> LlamaRunner:
        return self._inner.trial()

    def read(
        self,
        layout: Layout,
        gates: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        unembed: bool = True,
        every: bool = False,
        routes: Sequence[RouterConfig | None] = (),
    ) -> PrefillOutput:
        with self._lock:
            padding = None if any(routes) else self._padding(layout)
            if padding is None:
                return self._inner.read(layout, gates, prompts, unembed, every, routes)
            adapters = self._load(layout, padding)
            padded = adapters.layout(padding, layout.bank.names)
            read = adapters.runner.read(padded, gates, prompts, unembed, every)
            return read._replace(telemetry=padding.unpad(read.telemetry, layout, len(prompts)))

    def prepare(
        self, layout: Layout, gates: torch.Tensor, routes: Sequence[RouterConfig | None] = ()
    ) -> GraphPlan | DecodePlan:
        padding, router = self._padding(layout), TokenRouter.of(layout, routes)
        if padding is None or (router is not None and adapter_bucket(len(layout.bank.names)) is None):
            return self._inner.prepare(layout, gates, routes)
        own = layout.scales(gates)  # [B, Z]
        scales = own.new_zeros(len(own), padding.bucket.width).index_copy_(1, padding.columns, own)
        return GraphPlan(layout, padding, scales, next(stamps), router)

    @torch.no_grad()
    def __call__(
        self, plan: GraphPlan | DecodePlan, inputs: Inputs, cache: KVCache | PagedCache
    ) -> PassOutput:
        with self._lock:
            self.last_pass = monotonic()
            if isinstance(plan, DecodePlan):
                return self._uncaptured(self._inner, plan, inputs, cache)
            adapters = self._load(plan.layout, plan.padding)
            if plan.router is not None:
                adapters.axis(plan.adapters).load(plan.layout, plan.padding)
            graph = self._graph(plan, inputs, cache) if isinstance(cache, PagedCache) else None
            if graph is None:
                router = None
                if plan.router is not None:
                    router = adapters.axis(plan.adapters).router(len(inputs.tokens))
                    load_routes(router, plan.router)
                under = DecodePlan.of(adapters.table, plan.scales, router)
                logits, telemetry = self._uncaptured(adapters.runner, under, inputs, cache)
            else:
                logits, telemetry = self._replayed(graph, plan, inputs, cache)
            return logits, plan.padding.unpad(telemetry, plan.layout, len(inputs.tokens))

    # --- graphs --------------------------------------------------------------------------------

    @property
    def graphs(self) -> int:
        """How many graphs there are."""
        return len(self._graphs)

    def shape(self, layout: Layout, rows: int, length: int, adapters: int = 0) -> GraphShape | None:
        """The graph for so many rows under a layout, up to this length; None if there can be none.

        adapters: see GraphShape.
        """
        padding = self._padding(layout)
        if padding is None:
            return None
        bucket = padding.bucket
        return GraphShape(bucket, padded(rows), length_bucket(length), _dtype(layout, bucket), adapters)

    def record(self, shape: GraphShape) -> None:
        """Capture a graph, in place of one that is there for this shape.

        The rows of a capture are padding rows without adapters, so that running texts are not affected.
        """
        with self._lock:
            self.pool.prepare()
            adapters = self._buffers.of(shape.bucket, shape.dtype)
            self._forget_moved()
            device = self.pool.device
            tokens, positions = (torch.zeros(shape.rows, dtype=torch.int64, device=device) for _ in range(2))
            blocks = torch.full((shape.rows, shape.length // BLOCK), SPARE, device=device)
            scales = torch.zeros(shape.rows, shape.bucket.width, dtype=shape.dtype, device=device)
            router = adapters.axis(shape.adapters).router(shape.rows) if shape.adapters else None
            plan = DecodePlan.of(adapters.table, scales, router)
            inputs = Inputs(tokens, positions, shape.length)
            runner, pool = adapters.runner, self.pool
            runner.compiled = self._compiled

            @torch.no_grad()
            def run() -> PassOutput:
                return runner(plan, inputs, pool.view(pool.places(blocks)))

            self._graphs.pop(shape, None)
            compiled = bool(shape.adapters) or self._has_code(adapters, shape.rows)
            captured = self._capture(run)
            self._graphs[shape] = _Graph(tokens, positions, blocks, scales, captured, compiled, router)
            self.captured += 1
            if len(self._graphs) > MOST_GRAPHS:
                self._synchronize()
                self._graphs.popitem(last=False)

    def try_record(self, shape: GraphShape) -> bool:
        """The same. Where a capture fails, passes run uncaptured from then on, and it returns False."""
        if self._uncapturable:
            return False
        try:
            self.record(shape)
        except Exception as fault:  # whatever a driver or a library may come up with
            self._uncapturable = True
            reason = str(fault).split("\n")[0][:200]
            log.warning("the decoding step stays out of CUDA graphs (%s); texts come slower", reason)
        return not self._uncapturable

    def outdated(self, shape: GraphShape) -> bool:
        """Whether a shape has no graph, or one of what was not compiled yet and now is."""
        with self._lock:
            graph = self._graphs.get(shape)
            return graph is None or (not graph.compiled and self._has_code(self.adapters(shape), shape.rows))

    @contextmanager
    def in_background(self, shapes: Sequence[GraphShape]) -> Iterator[deque[GraphShape]]:
        """Inside, passes do not capture: shapes without a graph are appended, on the left, to the queue that
        is given, which begins with `shapes`."""
        with self._lock:
            queue = self._awaited = deque(shapes)
        try:
            yield queue
        finally:
            with self._lock:
                self._awaited = None

    @property
    def compiled(self) -> dict[tuple[tuple, bool], Callable]:
        return self._compiled

    def use(self, compiled: dict[tuple[tuple, bool], Callable]) -> None:
        """Run compiled code from now on; see LlamaRunner.compiled."""
        with self._lock:
            self._compiled = {**self._compiled, **compiled}

    def adapters(self, shape: GraphShape) -> BufferedAdapters:
        """The buffers that a shape's graph reads."""
        with self._lock:
            return self._buffers.of(shape.bucket, shape.dtype)

    def _has_code(self, adapters: BufferedAdapters, rows: int) -> bool:
        kinds = HEAD, *(segment.kind for segment in adapters.table.segments)
        return all((kind, rows == 1) in self._compiled for kind in kinds)

    def _graph(self, plan: GraphPlan, inputs: Inputs, cache: PagedCache) -> _Graph | None:
        """The graph of this pass, captured now if it is not awaited from the background."""
        cache.reserve(len(inputs.tokens))
        self._forget_moved()
        shape = self.shape(plan.layout, len(inputs.tokens), inputs.length, plan.adapters)
        if shape is None or self._uncapturable:
            return None
        if shape not in self._graphs:
            if self._awaited is not None:
                if shape not in self._awaited:
                    self._awaited.appendleft(shape)
                return None
            if not self.try_record(shape):
                return None
        self._graphs.move_to_end(shape)
        return self._graphs[shape]

    def _replayed(
        self, graph: _Graph, plan: GraphPlan, inputs: Inputs, cache: KVCache | PagedCache
    ) -> PassOutput:
        assert isinstance(cache, PagedCache)
        rows = len(inputs.tokens)
        graph.tokens[:rows].copy_(inputs.tokens)
        graph.positions[:rows].copy_(inputs.positions)
        filled = plan.stamp, cache.stamp, rows
        if graph.filled != filled:
            # A row too many decodes token 0 at position 0 of the spare block, and under no gate: those of
            # whoever was there before could overflow.
            graph.tokens[rows:] = graph.positions[rows:] = 0
            graph.blocks[rows:] = SPARE
            known = min(graph.blocks.shape[1], cache.blocks.shape[1])
            graph.blocks[:rows, :known] = cache.blocks[:rows, :known]
            graph.blocks[:rows, known:] = BLANK
            graph.scales[rows:] = 0
            graph.scales[:rows].copy_(plan.scales)
            if graph.router is not None and plan.router is not None:
                load_routes(graph.router, plan.router)
            graph.filled = filled
        logits, telemetry = graph.replay()
        cache.advance(rows)
        # A copy: the next replay, perhaps of another thread, overwrites it.
        return logits[:rows].clone(), telemetry

    def _uncaptured(
        self, runner: LlamaRunner, plan: DecodePlan, inputs: Inputs, cache: KVCache | PagedCache
    ) -> PassOutput:
        if isinstance(cache, KVCache):
            return runner(plan, inputs, cache)
        rows = len(inputs.tokens)
        cache.reserve(rows)
        places = self.pool.places(cache.blocks[:rows])[:, : inputs.length].contiguous()  # [B, T]
        outputs = runner(plan, inputs, self.pool.view(places))
        cache.advance(rows)
        return outputs

    # --- adapters ------------------------------------------------------------------------------

    @property
    def _buffers(self) -> AdapterBuffers:
        if self._made_buffers is None:
            self._made_buffers = AdapterBuffers(self._inner)
        return self._made_buffers

    def _padding(self, layout: Layout) -> RankPadding | None:
        with self._lock:
            for known, padding in self._paddings:
                if known() is layout:
                    return padding
            padding = RankPadding.of(layout)
            self._paddings.append((ref(layout), padding))
            return padding

    def _load(self, layout: Layout, padding: RankPadding) -> BufferedAdapters:
        """The buffers of the layout's bucket, with its factors in them."""
        adapters = self._buffers.of(padding.bucket, _dtype(layout, padding.bucket))
        self._forget_moved()
        if padding.bucket.rank and (
            self._loaded is None or self._loaded[0] is not adapters or self._loaded[1]() is not layout
        ):
            self._loaded = None  # they hold no set at all while one is copied
            adapters.load(layout)
            self._loaded = adapters, ref(layout)
        adapters.runner.compiled = self._compiled
        return adapters

    def _forget_moved(self) -> None:
        """Drop the graphs if memory that they read was moved."""
        versions = self.pool.version, self._buffers.version
        if versions != self._versions:
            self._synchronize()
            self._graphs.clear()
            self._versions = versions

    def _synchronize(self) -> None:
        """Wait for the replays under way before what they read is freed."""
        if self.pool.device.type == "cuda":
            torch.cuda.synchronize(self.pool.device)


def _dtype(layout: Layout, bucket: Bucket) -> torch.dtype:
    """What z is computed in; one and the same where there is none."""
    return layout.dtype if bucket.rank else torch.float32


def padded(count: int) -> int:
    """The rows of the graph that serves `count`."""
    return next((size for size in SIZES if count <= size), -(-count // SIZES[-1]) * SIZES[-1])


def length_bucket(length: int) -> int:
    """The least of SHORTEST_BUCKET, twice that, four times that... that is no less than `length`."""
    reached = SHORTEST_BUCKET
    while reached < length:
        reached *= 2
    return reached

"""The time that a product takes on a card, in a CUDA graph, with weights that are not in its cache."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from composer.model.runtime.nf4.choice import Candidate

# Calls in one graph, and how often it is replayed.
CALLS, REPLAYS = 8, 5


def graph_seconds(run: Candidate) -> float:
    """Seconds of a call within a graph, on the current device: a composer.model.runtime.nf4.choice.Clock.

    Before each call a buffer of twice the cache is written. That takes the same time for all candidates, so
    the numbers compare, but they are no times of the products alone.
    """
    device = torch.device("cuda", torch.cuda.current_device())
    size = torch.cuda.get_device_properties(device).L2_cache_size
    other = torch.empty(2 * size, dtype=torch.uint8, device=device)

    def calls() -> None:
        for _ in range(CALLS):
            other.zero_()
            run()

    replay = _captured(calls)
    replay()
    return statistics.median(_seconds(replay) for _ in range(REPLAYS)) / CALLS


def _captured(run: Callable[[], None]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries make their workspaces on first use, which no graph may record
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # "thread_local": other threads may go on allocating, which only this thread's own capture must not see.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay


def _seconds(run: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000

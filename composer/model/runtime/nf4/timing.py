"""The time that a product takes on a card, in a CUDA graph, with weights that are not in its cache."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from composer.model.runtime.nf4.choice import Candidate

# Calls in one graph, and how often it is replayed.
CALLS, REPLAYS = 8, 5


class GraphClock:
    """Seconds of a call within a graph. Before each call a buffer of twice the cache is written, which takes
    the same time for all candidates, so times compare but are no times of the products alone."""

    def __init__(self, device: torch.device):
        size = torch.cuda.get_device_properties(device).L2_cache_size
        self._device, self._other = device, torch.empty(2 * size, dtype=torch.uint8, device=device)

    def __call__(self, run: Candidate) -> float:
        def calls() -> None:
            for _ in range(CALLS):
                self._other.zero_()
                run()

        with torch.cuda.device(self._device):
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

"""Capture: what a function launches, recorded once and launched again with new numbers in its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")

# Passes before a capture: libraries make their workspaces on first use, which no graph may record.
WARM_UP = 2


class Capture(Protocol):
    """Records functions. A recorded function reads its inputs at the addresses that they had, and returns the
    same outputs, which the next replay of any function recorded here may overwrite."""

    def __call__(self, run: Callable[[], T]) -> Callable[[], T]: ...


class CudaCapture:
    """Captures as CUDA graphs that share their memory: they are replayed one at a time.

    The outputs must be copied before the next replay.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._pool: tuple[int, int] | None = None

    @property
    def pool(self) -> tuple[int, int] | None:
        """The identifier of the graphs' memory; None before the first capture."""
        return self._pool

    def __call__(self, run: Callable[[], T]) -> Callable[[], T]:
        with torch.cuda.device(self._device):  # a new thread would begin on the first one
            return self._recorded(run)

    def _recorded(self, run: Callable[[], T]) -> Callable[[], T]:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": other threads may go on allocating, which only this thread's capture must not see.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = run()

        def replay() -> T:
            graph.replay()
            return outputs

        return replay

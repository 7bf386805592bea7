"""A CUDA graph's behaviour without a GPU: a capture that records operators with their tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


def tensors(value: Any) -> list[torch.Tensor]:
    return [each for each in tree_leaves(value) if isinstance(each, torch.Tensor)]


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        # Operator, arguments, and those of its outputs that are memory of their own, by their places.
        self.steps: list[tuple[Callable, tuple, dict, list[tuple[int, torch.Tensor]]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError(f"{func} waits for the device, which no graph may record")
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        # Others are views, or were written in place: they are there already.
        given = {each.untyped_storage().data_ptr() for each in tensors((args, kwargs)) if each.numel()}
        made = [
            (place, each)
            for place, each in enumerate(tensors(out))
            if each.untyped_storage().data_ptr() not in given
        ]
        self.steps.append((func, args, kwargs, made))
        return out


class Tape:
    """A capture as a CUDA graph is one: replays run no Python of the function, only the recorded operators.

    They read and write the very tensors that the capture met. So a function that reads a tensor which is
    replaced later, or a number that was computed in Python, gives what it gave at the capture.
    """

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, run: Callable[[], T]) -> Callable[[], T]:
        run()  # what is made on first use is made outside
        recorder = _Recorder()
        with recorder:
            outputs = run()
        self.captures += 1

        @torch.no_grad()
        def replay() -> T:
            self.replays += 1
            for func, args, kwargs, made in recorder.steps:
                out = func(*args, **kwargs)
                for place, old in made:
                    old.copy_(out if isinstance(out, torch.Tensor) else out[place])
            return outputs

        return replay

"""Copies between the host and a device that the host does not wait for."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host's on a device. Work that is queued there later sees it."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


class HostCopy:
    """Tensors of one device on their way to the host: on a GPU one copy, under way from the start."""

    def __init__(self, tensors: Sequence[torch.Tensor]):
        """tensors: of four or eight bytes a number, those of eight first."""
        self._tensors, self._words, self._done = tensors, None, None
        if tensors[0].device.type == "cuda":
            words = packed(tensors)
            self._words = torch.empty(words.shape, dtype=words.dtype, pin_memory=True)
            self._words.copy_(words, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    def __call__(self) -> list[torch.Tensor]:
        """The tensors on the host, after waiting for them."""
        if self._words is None or self._done is None:
            return list(self._tensors)
        self._done.synchronize()
        return unpacked(self._words, self._tensors)


def packed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The bits of all of them, one after another, as int32: nothing converts a number on the way."""
    return torch.cat([tensor.reshape(-1).view(torch.int32) for tensor in tensors])


def unpacked(words: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The inverse of `packed`, for tensors of these types and shapes."""
    parts = words.split([each.numel() * each.element_size() // words.element_size() for each in like])
    return [part.view(each.dtype).view(each.shape) for part, each in zip(parts, like, strict=True)]

"""The KV cache of a batch: preallocated, one slot per branch, each at its own position."""

from __future__ import annotations

import math
import mmap

import torch

from composer.model.runtime.prefill import PrefillOutput

# The length of a slot is a multiple of so many tokens, so that few shapes occur.
LENGTH_MULTIPLE = 2048
# Positions that a growing cache begins with.
SHORTEST = 256


class KVCache:
    """`slots` sequences of at most `max_seq_len` tokens. Keys and values of a layer share one buffer.

    Positions after a sequence's last token hold zeros, and so do free slots. Attention multiplies masked
    positions by 0, and a NaN that an earlier row left there would reach the next one (0 * NaN is NaN).

    growing: the buffers begin shorter and are made longer by `buffer`, for devices where zeros take memory.
    """

    def __init__(self, slots: int, max_seq_len: int, growing: bool = False):
        self.slots, self.max_seq_len = slots, max_seq_len
        self._length = min(max_seq_len, SHORTEST) if growing else max_seq_len
        # Per layer [S, 2H, max_seq_len, D], keys in the first H heads. Made when the first prompt shows the
        # shape. On a CPU zeros cost no memory until they are written, so the length may be generous.
        self.buffers: list[torch.Tensor] = []

    def write(self, slot: int, length: int, read: PrefillOutput, row: int) -> None:
        """Copy the keys and values of one prompt, row `row` of `read`, into a slot."""
        start = read.starts[row]
        for index, past in enumerate(read.past):
            if len(self.buffers) == index:
                self.buffers.append(self.zeros(past.shape[1], past.shape[3], past))
            self.buffer(index, length)[slot, :, :length] = past[row, :, start : start + length]

    def buffer(self, layer: int, length: int) -> torch.Tensor:
        """A layer's buffer, with so many positions at least."""
        buffer = self.buffers[layer]
        if buffer.shape[2] < length:
            self._length = max(self._length, min(max(length, 2 * buffer.shape[2]), self.max_seq_len))
            with torch.inference_mode(False):  # or nobody could write to it outside of that mode
                longer = self.zeros(buffer.shape[1], buffer.shape[3], buffer)
            longer[:, :, : buffer.shape[2]] = buffer
            self.buffers[layer] = longer
        return self.buffers[layer]

    def zeros(self, heads: int, width: int, like: torch.Tensor) -> torch.Tensor:
        """A layer's buffer of zeros, [S, heads, positions, width], of `like`'s type and device.

        On a CPU the zeros are fresh pages of the system, which take memory only when they are written; torch
        writes its own. Huge pages are switched off: with them the first token of each slot would take the
        memory of the whole buffer, gigabytes.
        """
        shape = (self.slots, heads, self._length, width)
        if like.device.type != "cpu":
            return torch.zeros(shape, dtype=like.dtype, device=like.device)
        raw = mmap.mmap(-1, math.prod(shape) * like.element_size())
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            raw.madvise(mmap.MADV_NOHUGEPAGE)
        return torch.frombuffer(raw, dtype=like.dtype).view(shape)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a sequence of `length` tokens into another slot."""
        for buffer in self.buffers:
            buffer[target, :, :length] = buffer[source, :, :length]

    def clear(self, slot: int, start: int, end: int) -> None:
        """Fill the positions [start, end) of a slot with zeros."""
        for buffer in self.buffers:
            buffer[slot, :, start:end] = 0


def cache_for(runner: object, slots: int, max_seq_len: int) -> KVCache:
    """The cache of a batch on a runner: from the runner's own pool, if it has one."""
    make = getattr(runner, "cache", KVCache)
    return make(slots, max_seq_len)


class SlotCacheView:
    """The cache as transformers' attention expects it for one pass: the first B slots, to the longest row.

    Each row's new token is written at the row's own position, which no cache of transformers does.
    """

    is_compileable = False

    def __init__(self, cache: KVCache, positions: torch.Tensor, length: int):
        self._cache, self._positions, self._length = cache, positions, length
        self._rows = torch.arange(len(positions), device=positions.device)

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_args, **_kwargs):
        """keys, values: [B, H, 1, D]. Returns both with the past, [B, H, length, D]."""
        buffer, heads = self._cache.buffer(layer, self._length), keys.shape[1]
        # The layers of a spread base have their buffers on their own devices.
        rows, positions = self._rows.to(keys.device), self._positions.to(keys.device)
        buffer[rows, :, positions] = torch.cat([keys, values], dim=1)[:, :, 0]
        seen = buffer[: len(keys), :, : self._length]
        return seen[:, :heads], seen[:, heads:]

    def get_seq_length(self, *_args) -> int:
        """The length of the past. Positions and masks are passed to transformers beside it."""
        return self._length - 1


def decode_mask(
    positions: torch.Tensor, length: int, dtype: torch.dtype, window: int | None = None
) -> torch.Tensor:
    """[B] positions -> additive mask [B, 1, 1, length]: 0 at visible positions, -inf elsewhere.

    window: tokens that a sliding-window layer attends to, the current one included (None: all).
    """
    place = torch.arange(length, device=positions.device)
    seen = place <= positions[:, None]  # [B, length]
    if window is not None:
        seen &= place > positions[:, None] - window
    mask = torch.zeros(seen.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(~seen, float("-inf"))[:, None, None]

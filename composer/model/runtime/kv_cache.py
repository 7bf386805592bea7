"""The KV cache of a running batch: preallocated, a slot per row, every row at its own position."""

from __future__ import annotations

import math
import mmap

import torch

from composer.model.runtime.prefill import PrefillOutput

# A cache has room for this many tokens a row or a multiple, so that few shapes occur.
LENGTH_MULTIPLE = 2048


class KVCache:
    """`slots` rows of at most `room` tokens. Keys and values of a layer share one buffer.

    A slot holds zeros after its row's last token, and a slot without a row holds zeros alone: attention reads
    masked places too, where what somebody left behind would reach the next row (0 * NaN is NaN).

    buffers: per layer [S, 2H, room, D], keys in the first H heads; made when the first prompt shows their
    shape. On a CPU fresh zeros cost no memory until they are written, so `room` may be generous.
    """

    def __init__(self, slots: int, max_seq_len: int):
        self.slots, self.max_seq_len = slots, max_seq_len
        self.buffers: list[torch.Tensor] = []
        # Whatever a pass records of its work in these buffers: as good as they are, and gone with them.
        self.graphs: dict[tuple, object] = {}

    def write(self, slot: int, length: int, read: PrefillOutput, row: int) -> None:
        """Take over what was read of one prompt, row `row` of `read`, into a slot."""
        start = read.starts[row]
        for index, past in enumerate(read.past):
            if len(self.buffers) == index:
                self.buffers.append(self.zeros(past.shape[1], past.shape[3], past))
            self.buffers[index][slot, :, :length] = past[row, :, start : start + length]

    def zeros(self, heads: int, width: int, like: torch.Tensor) -> torch.Tensor:
        """A layer's buffer [S, heads, room, width], of `like`'s type and device.

        On a CPU the zeros are the system's own, whose pages cost nothing until somebody writes there; torch's
        are written. Small pages: of large ones the beginning of each row would bring in the whole buffer,
        gigabytes.
        """
        shape = (self.slots, heads, self.max_seq_len, width)
        if like.device.type != "cpu":
            return torch.zeros(shape, dtype=like.dtype, device=like.device)
        raw = mmap.mmap(-1, math.prod(shape) * like.element_size())
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            raw.madvise(mmap.MADV_NOHUGEPAGE)
        return torch.frombuffer(raw, dtype=like.dtype).view(shape)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row of `length` tokens into another slot."""
        for buffer in self.buffers:
            buffer[target, :, :length] = buffer[source, :, :length]

    def clear(self, slot: int, start: int, end: int) -> None:
        """Fill the places [start, end) of a slot with zeros."""
        for buffer in self.buffers:
            buffer[slot, :, start:end] = 0


class SlotCacheView:
    """What transformers' attention sees of the cache in one pass: the first B slots, up to the longest row.

    It writes each row's new token at the row's own position, which no cache of the library does.
    """

    is_compileable = False

    def __init__(self, cache: KVCache, positions: torch.Tensor, length: int):
        self._cache, self._positions, self._length = cache, positions, length
        self._rows = torch.arange(len(positions), device=positions.device)

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_args, **_kwargs):
        """keys, values: [B, H, 1, D]. Returns both with the past, [B, H, length, D]."""
        buffer, heads = self._cache.buffers[layer], keys.shape[1]
        buffer[self._rows, :, self._positions] = torch.cat([keys, values], dim=1)[:, :, 0]
        seen = buffer[: len(keys), :, : self._length]
        return seen[:, :heads], seen[:, heads:]

    def get_seq_length(self, *_args) -> int:
        """How much of the past there is; transformers asks, our positions and masks answer."""
        return self._length - 1


def decode_mask(
    positions: torch.Tensor, length: int, dtype: torch.dtype, window: int | None = None
) -> torch.Tensor:
    """[B] positions -> additive mask [B, 1, 1, length]: 0 where a row may look, -inf elsewhere.

    window: how many tokens a sliding-window layer sees, the row's own among them.
    """
    place = torch.arange(length, device=positions.device)
    seen = place <= positions[:, None]  # [B, length]
    if window is not None:
        seen &= place > positions[:, None] - window
    mask = torch.zeros(seen.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(~seen, float("-inf"))[:, None, None]

"""KV memory of a base on a GPU: one arena of blocks, which every batch borrows from and gives back to.

The arena stays at its address while batches come and go, so a CUDA graph that was captured once serves all
of them: which tokens are a row's is an input, its blocks' numbers. A row takes the blocks that its tokens
fill, and no more. A token of an 8B-shaped base takes 32 layers * 2 * 8 heads * 128 features * 2 bytes = 131
kB. The first START_TOKENS take 0.54 GB; 32 slots of 2,048 tokens, used or not, would take 8.6 GB.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from itertools import count
from threading import RLock
from typing import Any
from weakref import finalize

import torch

from composer.model.runtime.kv_cache import LENGTH_MULTIPLE, KVCache
from composer.model.runtime.llama.runner import LlamaRunner
from composer.model.runtime.prefill import PrefillOutput

# Tokens of a block.
BLOCK = 64
# Tokens of an arena at first, 32 rows of 128, and how many it grows by when all are in use.
START_TOKENS = 4096
# The block of zeros that stands for what a row does not have yet, and the block that padding rows write to.
# They are two, since an overflow in a padding row must not be read by others: 0 * NaN is NaN.
BLANK, SPARE = 0, 1
# Compiled code computes addresses in 32 bits.
MOST_ELEMENTS = 2**31 - 1

# Numbers that are given once, by which a graph knows whether its inputs changed.
stamps = count()


class KVPool:
    """The arena of a runner: for each layer [tokens, 2H, D], keys in the first H heads.

    A block that is given out holds zeros. `lock` is held while a pass is launched, and while the arena is
    made larger: it then has another address, and `version` is another number.
    """

    def __init__(self, layers: int, sample: torch.Tensor, tokens: int = START_TOKENS):
        """sample: [*, 2H, *, D] of the arena's type and device."""
        self.lock = RLock()
        self.version = 0
        # Blocks of caches that are gone. Their finalizers run anywhere, so they only append here.
        self.returned: deque[int] = deque()
        self.layers: list[torch.Tensor] = []
        self._count, self._sample = layers, sample[:0]
        self._first = max(tokens // BLOCK, 1) + 2
        self._offsets = torch.arange(BLOCK, device=sample.device)
        self._blocks = 0
        self._free: list[int] = []

    @classmethod
    def of(cls, runner: LlamaRunner, tokens: int = START_TOKENS) -> KVPool:
        return cls(runner.layers, runner.empty_buffer(KVCache(1, 1)), tokens)

    @property
    def device(self) -> torch.device:
        return self._sample.device

    @property
    def used(self) -> int:
        """Blocks that caches hold."""
        with self.lock:
            self._collect()
            return max(self._blocks - 2, 0) - len(self._free)

    def prepare(self) -> None:
        """Make the arena, if it is not there yet."""
        with self.lock:
            if not self._blocks:
                self._enlarge(self._first)

    def allocate(self, blocks: int) -> list[int]:
        """Numbers of so many blocks of zeros.

        Raises torch.OutOfMemoryError where the device has no room for them, and MemoryError where compiled
        code could not address them. Both leave the blocks that are in use as they are.
        """
        with self.lock:
            self.prepare()
            self._collect()
            if missing := max(blocks - len(self._free), 0):
                self._enlarge(self._blocks + max(missing, self._first))
            taken = [heapq.heappop(self._free) for _ in range(blocks)]
            parts = [layer[at * BLOCK : (at + 1) * BLOCK] for layer in self.layers for at in taken]
            if parts:
                torch._foreach_zero_(parts)
            return taken

    def free(self, blocks: Sequence[int]) -> None:
        with self.lock:
            for block in blocks:
                heapq.heappush(self._free, block)

    def places(self, blocks: torch.Tensor) -> torch.Tensor:
        """Where the tokens of these blocks lie: [..., n] int64 -> [..., n * BLOCK]."""
        return (blocks[..., None] * BLOCK + self._offsets).flatten(-2)

    def view(self, places: torch.Tensor) -> PagedView:
        """The arena as a pass over rows takes it, whose tokens lie at places [B, T]."""
        return PagedView(self.layers, places)

    def _collect(self) -> None:
        while self.returned:
            heapq.heappush(self._free, self.returned.popleft())

    def _enlarge(self, blocks: int) -> None:
        """Layer by layer, so that what is there twice at once is one layer."""
        heads, width = self._sample.shape[1], self._sample.shape[3]
        if blocks * BLOCK * heads * width > MOST_ELEMENTS:
            raise MemoryError("The texts under way have too many tokens to be decoded together.")
        self.version += 1
        for index in range(self._count):
            larger = self._sample.new_zeros(blocks * BLOCK, heads, width)
            if index < len(self.layers):
                larger[: len(self.layers[index])] = self.layers[index]
                self.layers[index] = larger
            else:
                self.layers.append(larger)
        for block in range(max(self._blocks, SPARE + 1), blocks):
            heapq.heappush(self._free, block)
        self._blocks = blocks


class PagedView:
    """What LlamaRunner takes of a cache: for each layer a buffer that is indexed by rows."""

    def __init__(self, layers: Sequence[torch.Tensor], places: torch.Tensor):
        self.slots, length = places.shape
        self.max_seq_len = -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        self.buffers = [PagedBuffer(layer, places) for layer in layers]


class PagedBuffer:
    """A layer's keys and values of B rows, to be indexed as the tensor [B, 2H, T, D] that it stands for.

    There are three ways: `[:n]` gives the first rows, `[rows, :, positions] = new` writes a token of each
    row, [B, 2H, D], and `[:, :, start:end]` reads tokens of all rows, [B, 2H, end - start, D].
    """

    def __init__(self, tokens: torch.Tensor, places: torch.Tensor):
        self.tokens = tokens  # [P, 2H, D]
        self.places = places  # [B, T]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return PagedBuffer(self.tokens, self.places[key])
        _, _, span = key
        return self.tokens[self.places[:, span]].transpose(1, 2)

    def __setitem__(self, key: Any, new: torch.Tensor) -> None:
        rows, _, positions = key
        self.tokens[self.places[rows, positions]] = new


class PagedCache:
    """A batch's cache in a pool, with the methods of KVCache. Its blocks go back when it is collected."""

    def __init__(self, pool: KVPool, slots: int, max_seq_len: int):
        self.slots, self.max_seq_len = slots, max_seq_len
        # Changes whenever `blocks` does.
        self.stamp = next(stamps)
        self._pool = pool
        self._width = -(-max_seq_len // BLOCK)
        self._blocks: list[list[int]] = [[] for _ in range(slots)]
        self._lengths = [0] * slots
        self._table: torch.Tensor | None = None
        finalize(self, _give_back, pool.returned, self._blocks).atexit = False

    @property
    def blocks(self) -> torch.Tensor:
        """Each slot's blocks, [slots, ceil(max_seq_len / BLOCK)] int64; BLANK where it has none."""
        if self._table is None:
            rows = [own + [BLANK] * (self._width - len(own)) for own in self._blocks]
            self._table = torch.tensor(rows).to(self._pool.device)
        return self._table

    @property
    def buffers(self) -> list[torch.Tensor]:
        """What KVCache has by this name, [slots, 2H, T, D] for each layer, as copies to look at."""
        places = self._pool.places(self.blocks)
        return [layer[places].transpose(1, 2) for layer in self._pool.layers]

    def write(self, slot: int, length: int, read: PrefillOutput, row: int) -> None:
        """Copy the keys and values of one prompt, row `row` of `read`, into a slot."""
        start = read.starts[row]
        with self._pool.lock:
            self._release(slot)
            self._extend(slot, length)
            own = torch.tensor(self._blocks[slot]).to(self._pool.device)
            places = self._pool.places(own)[:length]  # [length]
            for layer, past in zip(self._pool.layers, read.past, strict=True):
                layer[places] = past[row, :, start : start + length].transpose(0, 1)
            self._lengths[slot] = length

    def reserve(self, rows: int) -> None:
        """Have room for one more token of each of the first slots. ValueError for a slot that is full."""
        with self._pool.lock:
            for slot in range(rows):
                self._extend(slot, self._lengths[slot] + 1)

    def advance(self, rows: int) -> None:
        """One more token was written in each of the first slots."""
        for slot in range(rows):
            self._lengths[slot] += 1

    def move(self, source: int, target: int, length: int) -> None:
        """Give a sequence another slot. Nothing is copied."""
        with self._pool.lock:
            self._release(target)
            # The lists stay the same objects: the finalizer has them.
            self._blocks[target][:], self._blocks[source][:] = self._blocks[source], []
            self._lengths[target], self._lengths[source] = self._lengths[source], 0

    def clear(self, slot: int, start: int, end: int) -> None:
        """Fill the positions [start, end) of a slot with zeros; from 0 on, the slot is free."""
        with self._pool.lock:
            if start == 0:
                self._release(slot)
            elif start < self._lengths[slot]:
                own = torch.tensor(self._blocks[slot]).to(self._pool.device)
                places = self._pool.places(own)[start:end]
                for layer in self._pool.layers:
                    layer[places] = 0
                self._lengths[slot] = start

    def _extend(self, slot: int, length: int) -> None:
        own = self._blocks[slot]
        needed = -(-length // BLOCK)
        if needed > self._width:
            raise ValueError(f"{length} tokens have no room in a slot of {self.max_seq_len}")
        if needed > len(own):
            own += self._pool.allocate(needed - len(own))
            self._changed()

    def _release(self, slot: int) -> None:
        if self._blocks[slot]:
            self._pool.free(self._blocks[slot])
            self._blocks[slot].clear()
        self._lengths[slot] = 0
        self._changed()

    def _changed(self) -> None:
        self._table, self.stamp = None, next(stamps)


def _give_back(returned: deque[int], blocks: Sequence[list[int]]) -> None:
    for own in blocks:
        returned.extend(own)
        own.clear()

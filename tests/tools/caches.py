"""What the slots of a batch's cache hold, wherever it keeps them."""

from __future__ import annotations

import torch

from composer.model.runtime.graphs.kv_pool import PagedCache
from composer.model.runtime.kv_cache import KVCache


def buffers(cache: KVCache | PagedCache) -> list[torch.Tensor]:
    """Per layer [slots, 2H, T, D]; of a paged cache a copy, with zeros where a slot has no block."""
    if isinstance(cache, KVCache):
        return cache.buffers
    places = cache._pool.places(cache.blocks)  # [slots, T]
    return [layer[places].transpose(1, 2) for layer in cache._pool.layers]


def overwrite(cache: KVCache | PagedCache, slot: int, position: int, value: float) -> None:
    """Put a number into a slot's keys and values at one position."""
    if isinstance(cache, KVCache):
        for buffer in cache.buffers:
            buffer[slot, :, position] = value
    else:
        place = cache._pool.places(cache.blocks)[slot, position]
        for layer in cache._pool.layers:
            layer[place] = value

"""Writes into the slots of a batch's cache, wherever it keeps them."""

from __future__ import annotations

from composer.model.runtime.graphs.kv_pool import PagedCache
from composer.model.runtime.kv_cache import KVCache


def overwrite(cache: KVCache | PagedCache, slot: int, position: int, value: float) -> None:
    """Put a number into a slot's keys and values at one position."""
    if isinstance(cache, KVCache):
        for buffer in cache.buffers:
            buffer[slot, :, position] = value
    else:
        place = cache._pool.places(cache.blocks)[slot, position]
        for layer in cache._pool.layers:
            layer[place] = value

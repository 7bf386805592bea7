"""Gives memory that was freed back to the system, while a server works.

glibc keeps what is freed between blocks that are still in use, and an adapter is hundreds of small blocks:
in a process that loads and drops adapters all day, a fifth of the memory was of nobody.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import process_time

# Seconds between two looks. Trimming takes a tenth of a second for half a gigabyte, and as long nobody else
# gets memory from the same arena.
EVERY = 10.0
# Seconds of CPU time in which a process frees something worth the look.
WORKED = 1.0
# Bytes from which a block is the system's own, and goes back to it as soon as it is freed. By itself glibc
# raises the bound with every such block, and tensors of a moment break the heap into pieces.
LARGE = 4 << 20
M_MMAP_THRESHOLD = -3  # mallopt(3)


@contextmanager
def trimmed(every: float = EVERY) -> Iterator[None]:
    """Give freed memory back every so many seconds in which the process worked, until the end of the block.
    Large blocks go back at once from then on; MALLOC_MMAP_THRESHOLD_ in the environment says what is large.

    Does nothing where the C library is not glibc.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    trim = getattr(libc, "malloc_trim", None)
    if libc is None or trim is None:
        yield
        return
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
    over = Event()

    def run() -> None:
        seen = process_time()
        while not over.wait(every):
            if process_time() - seen >= WORKED:
                trim(0)
                seen = process_time()

    thread = Thread(target=run, name="trimming", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

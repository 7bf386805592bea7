"""From an iterator that blocks to the event loop, in bursts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import closing, suppress
from contextvars import copy_context
from dataclasses import dataclass
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
# Seconds without news after which an empty burst goes out: what nobody listens to any more, Gradio only
# notices when it has something to send.
PULSE = 1.0


@dataclass(frozen=True)
class _End:
    fault: BaseException | None = None


async def throttled(
    items: Generator[T | None], per_second: float, pulse: float = PULSE
) -> AsyncIterator[list[T]]:
    """The items in lists: the first at once, then at most `per_second` lists, and [] after `pulse` idle
    seconds.

    A thread drives `items` in the caller's context, so that neither the event loop nor Gradio's threads
    block. Leaving takes effect at once; the thread closes `items` at their next item, which is what their
    Nones are for. Errors of `items` are raised here, after everything that came before.
    """
    loop, inbox, left = asyncio.get_running_loop(), asyncio.Queue(), Event()

    def post(item: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has gone down and nobody listens
            loop.call_soon_threadsafe(inbox.put_nowait, item)

    drive = copy_context().run
    Thread(target=drive, args=(_drive, items, post, left), name="visitor", daemon=True).start()
    due = loop.time()
    try:
        while True:
            await asyncio.sleep(due - loop.time())
            try:
                burst = [await asyncio.wait_for(inbox.get(), pulse)]
            except TimeoutError:
                yield []
                continue
            while not inbox.empty():
                burst.append(inbox.get_nowait())
            due = loop.time() + 1 / per_second
            end = burst.pop() if isinstance(burst[-1], _End) else None
            if burst:
                yield burst
            if end is not None:
                if end.fault is not None:
                    raise end.fault
                return
    finally:
        left.set()


def _drive(items: Generator, post: Callable[[object], None], left: Event) -> None:
    """Posts each item that is not None, then an _End; stops when the consumer has left."""
    try:
        with closing(items):
            for item in items:
                if left.is_set():
                    break
                if item is not None:
                    post(item)
    except BaseException as fault:  # whatever it was, the listener must not wait for more
        post(_End(fault))
    else:
        post(_End())

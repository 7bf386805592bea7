"""A page's handlers called without a browser."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from composer.ui.visitors import Visitor


class Controls:
    """Controls that say what they were given."""

    def __init__(self, page, **values):
        self.values = {
            "visitor": Visitor(),
            "prompt": "The",
            "method": "sum",
            "bands": (1.0, 1.0, 1.0),
            "parameters": {},
            "sampling": {"max_new_tokens": 2},
            "per_adapter": True,
            "curves": {"curves": {}, "schedule": {}},
            "sliders": [1.0] + [0.0] * (len(page.context.slots) - 1),
            **values,
        }

    def read(self, _):
        return dict(self.values)


def everything(events):
    """All that an async iterator yields, or what an awaitable returns.

    By another thread's event loop: the browser tests leave one running in this thread.
    """

    async def collected():
        return [event async for event in events] if hasattr(events, "__aiter__") else await events

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, collected()).result()

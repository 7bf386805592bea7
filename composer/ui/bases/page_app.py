"""A page's ASGI app that starts and ends while the server runs."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import gradio as gr
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from composer.ui.sessions import keep_sessions


class PageApp:
    """The app of a page. It starts with its first request, in the server's event loop.

    The server runs the lifespan of the app that it began with, and of none that is mounted later; a Gradio
    page without its lifespan processes no event.

    blocks: the page. path: where it is served, as a root path that the server strips. options: further ones
    of gr.mount_gradio_app.
    """

    def __init__(self, blocks: gr.Blocks, path: str, **options: object):
        self._blocks = blocks
        bare = FastAPI(openapi_url=None)
        self._app = gr.mount_gradio_app(bare, blocks, path="/", root_path=path, **options)
        keep_sessions(blocks)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lifespan: asyncio.Task[None] | None = None
        self._started, self._ending = asyncio.Event(), asyncio.Event()
        # Requests under way. A page that somebody has open keeps one for as long.
        self._requests: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._lifespan is None:
            self._loop = asyncio.get_running_loop()
            self._lifespan = asyncio.create_task(self._live())
        await self._started.wait()
        request = asyncio.create_task(self._app(scope, receive, send))
        self._requests.add(request)
        try:
            await request
        except asyncio.CancelledError:
            request.cancel()
            if not self._ending.is_set():
                raise
            with suppress(RuntimeError):  # nothing was sent yet, or all was
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._requests.discard(request)

    def end(self) -> None:
        """End it, and the requests under way. From any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the server has gone down
                self._loop.call_soon_threadsafe(self._end)

    async def _live(self) -> None:
        """One task enters and leaves: parts of the lifespan may not change tasks."""
        try:
            async with self._app.router.lifespan_context(self._app):
                self._started.set()
                await self._ending.wait()
        finally:
            self._started.set()  # a fault is the request's, which must not wait for ever

    def _end(self) -> None:
        self._ending.set()
        self._blocks._queue.close()
        for request in list(self._requests):
            request.cancel()

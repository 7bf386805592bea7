"""A page that is served after the server has started: its events work, and what it takes is given back."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from concurrent.futures import ThreadPoolExecutor

from composer.ui.bases.opening import ServedBase, page_options
from composer.ui.bases.page_app import PageApp
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from tests.tools import tiny


async def request(app, method, path, body=b"", query=b""):
    """Status and body of a request to an ASGI app."""
    sent, status, got = [{"type": "http.request", "body": body}], [], bytearray()
    headers = [(b"host", b"here"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "server": ("here", 80),
        "client": ("there", 1),
    }

    async def receive():
        return sent.pop() if sent else await asyncio.Future()

    async def send(message):
        if message["type"] == "http.response.start":
            status.append(message["status"])
        got.extend(message.get("body", b""))

    await app(scope, receive, send)
    return status[0], bytes(got)


def served_base(folder):
    """A base with a page, and a weak reference to its engine."""
    engine = tiny.engine("llama", tiny.three_unlike(folder, "llama"))
    runner = BatchedRunner(engine, Settings())
    page = Page(runner, Settings())
    app = PageApp(page.blocks(), "/base/tiny", **page_options(page))
    return ServedBase(runner, app, 0), weakref.ref(engine)


async def used(served):
    """Use a base's page as a program does, and end it while one waits. What was found on the way."""
    status, config = await request(served.app, "GET", "/config")
    assert status == 200
    asked = json.dumps({"prompt": "Who goes", "weights": {"plain": 1}, "max_new_tokens": 3}).encode()
    _, event = await request(served.app, "POST", "/gradio_api/call/v2/generate", asked)
    path = f"/gradio_api/call/generate/{json.loads(event)['event_id']}"
    _, news = await request(served.app, "GET", path)
    waiting = asyncio.create_task(request(served.app, "GET", "/gradio_api/heartbeat/someone"))
    while not served.app._requests:
        await asyncio.wait([waiting], timeout=0.05)
    assert served.close_if_idle()
    served.close()
    await served.app._lifespan
    await waiting
    return json.loads(config), news.decode()


def test_a_page_served_later_works_and_leaves_nothing_behind(tmp_path):
    served, engine = served_base(tmp_path)
    with ThreadPoolExecutor(1) as thread:  # the browser tests leave an event loop running in this thread
        config, news = thread.submit(asyncio.run, used(served)).result()
    assert config["root"] == "http://here/base/tiny"
    assert "event: complete" in news and '"text"' in news
    del served
    gc.collect()
    assert engine() is None, "the unloaded base keeps its memory"

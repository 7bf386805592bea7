"""The front passes everything on to one replica for each visitor, and ends well what a dead one leaves."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from composer.ui.replicas.events import CUT
from composer.ui.replicas.front import COOKIE, REPLICA, Front
from composer.ui.replicas.routing import NO_REPLICA, Member, ReplicaTable


class StandIn:
    """Answers as a replica does: echoes, joins and streams. `go` lets the stream say its last message."""

    def __init__(self, key: str):
        self.key, self.go, self.seen = key, asyncio.Event(), []
        app = web.Application(client_max_size=10_000_000)
        app.router.add_post("/gradio_api/queue/join", self.join)
        app.router.add_get("/gradio_api/queue/data", self.data)
        app.router.add_get("/gradio_api/heartbeat/{session}", self.heartbeat)
        app.router.add_get("/gradio_api/call/generate/{event}", self.data)
        app.router.add_route("*", "/{path:.*}", self.echo)
        self.server = TestServer(app)

    @property
    def member(self) -> Member:
        return Member(self.key, "127.0.0.1", self.server.port, 1)

    async def echo(self, request):
        body = await request.read()
        heard = {
            "key": self.key,
            "path": request.raw_path,
            "headers": dict(request.headers),
            "size": len(body),
        }
        return web.json_response(heard, headers={"Set-Cookie": "theirs=1", "X-Own": "yes"})

    async def join(self, request):
        self.seen.append(await request.json())
        return web.json_response({"event_id": "e1"})

    async def data(self, request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"msg":"process_generating","event_id":"e1"}\n\n')
        await self.go.wait()
        done = {"msg": "process_completed", "event_id": "e1", "success": True}
        await response.write(b"data: " + json.dumps(done).encode() + b'\n\ndata: {"msg":"close_stream"}\n\n')
        return response

    async def heartbeat(self, request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"data: {self.key}\n\n".encode())
        await self.go.wait()
        return response

    async def die(self):
        """As a process that is killed: the port and all connections are closed at once."""
        handler = self.server.runner.server
        for site in list(self.server.runner.sites):
            await site.stop()
        for each in list(handler.connections):
            if each.transport is not None:
                each.transport.abort()


@asynccontextmanager
async def fronted(*keys: str):
    """A client of a front over so many stands."""
    stands, lost = [StandIn(key) for key in keys], []
    for each in stands:
        await each.server.start_server()

    async def note(member):
        lost.append(member.key)

    routing = ReplicaTable()
    routing.update(each.member for each in stands)
    server = TestServer(Front(routing, note).app())
    async with TestClient(server, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield client, {each.key: each for each in stands}, lost, routing
    for each in stands:
        each.go.set()
        await each.server.close()


def visitor(number: int) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={number:032x}"}


async def served_by(client, headers=None) -> str:
    async with client.get("/", headers=headers) as answer:
        return (await answer.json())["key"]


@pytest.mark.parametrize("target", ["http://elsewhere/x", "x://@elsewhere/", "@elsewhere/"])
def test_no_request_leads_to_another_host(target):
    async def run():
        async with fronted("a") as (client, *_):
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), answer

    asyncio.run(run())


def test_a_visitor_stays_with_one_replica_and_a_program_without_cookies_too():
    async def run():
        async with fronted("a", "b") as (client, *_):
            first = [await served_by(client, visitor(each)) for each in range(4)]
            assert sorted(first) == ["a", "a", "b", "b"]
            assert [await served_by(client, visitor(each)) for each in range(4)] == first
            assert len({await served_by(client) for _ in range(4)}) == 1
            async with client.get("/", headers={"Cookie": f"{COOKIE}=../../etc"}) as answer:
                assert answer.headers[REPLICA] in "ab"
                given = answer.cookies[COOKIE]
                assert len(given.value) == 32 and given["httponly"] and given["samesite"] == "Lax"

    asyncio.run(run())


def test_what_is_asked_and_answered_arrives_as_it_was():
    async def run():
        async with fronted("a") as (client, *_):
            path = "/a%20b/%2e?x=%2F&y=ü"
            headers = {**visitor(1), "Host": "page.example", "X-Forwarded-For": "203.0.113.7"}
            async with client.post(path, data=b"x" * 3_000_000, headers=headers) as answer:
                heard = await answer.json()
                assert heard["size"] == 3_000_000 and heard["path"].startswith("/a%20b/")
                assert heard["headers"]["Host"] == "page.example"
                assert heard["headers"]["X-Forwarded-For"] == "203.0.113.7", "a proxy on this machine"
                assert answer.headers["X-Own"] == "yes" and answer.cookies["theirs"].value == "1"
                assert COOKIE not in answer.cookies, "they have one"

    asyncio.run(run())


def test_a_stream_passes_as_it_comes_and_ends_as_it_ended():
    async def run():
        path = "/gradio_api/queue/data?session_hash=s"
        async with fronted("a") as (client, stands, *_), client.get(path, headers=visitor(1)) as stream:
            assert b"process_generating" in await asyncio.wait_for(stream.content.readuntil(b"\n\n"), 10)
            stands["a"].go.set()
            assert (await stream.content.read()).endswith(b'data: {"msg":"close_stream"}\n\n')

    asyncio.run(run())


def test_a_visitor_who_leaves_while_an_answer_ends_leaves_no_traceback(monkeypatch, caplog):
    class Leaving(web.StreamResponse):
        async def write_eof(self, data=b""):
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    async def run():
        async with fronted("a") as (client, *_):
            with pytest.raises(aiohttp.ClientError):
                await (await client.get("/", headers=visitor(1))).read()

    monkeypatch.setattr("composer.ui.replicas.front._begun", lambda *given: Leaving())
    asyncio.run(run())
    assert not [each for each in caplog.records if each.name == "aiohttp.server"]


def test_a_replica_that_dies_in_mid_text_leaves_one_sentence_and_the_next_try_works():
    async def run():
        async with fronted("a", "b") as (client, stands, lost, _):
            dying = stands[await served_by(client, visitor(1))]
            asked = {"session_hash": "s", "data": []}
            async with client.post("/gradio_api/queue/join", json=asked, headers=visitor(1)) as answer:
                assert await answer.json() == {"event_id": "e1"}
            async with client.get("/gradio_api/queue/data?session_hash=s", headers=visitor(1)) as stream:
                await stream.content.readuntil(b"\n\n")
                await dying.die()
                rest = await asyncio.wait_for(stream.content.read(), 10)
            failed, closed = [json.loads(each[6:]) for each in rest.split(b"\n\n") if each]
            assert failed["event_id"] == "e1" and failed["output"]["error"] == CUT
            assert closed == {"msg": "close_stream"} and lost == [dying.key]
            async with client.post("/gradio_api/queue/join", json=asked, headers=visitor(1)) as answer:
                assert answer.status == 200
            [other] = [each for each in stands.values() if each is not dying]
            assert other.seen == [asked]

    asyncio.run(run())


def test_what_is_asked_of_a_dead_replica_is_asked_of_another():
    async def run():
        async with fronted("a", "b") as (client, stands, lost, _):
            dying = stands[await served_by(client, visitor(1))]
            await dying.die()
            asked = {"session_hash": "s", "data": ["text"]}
            async with client.post("/gradio_api/queue/join", json=asked, headers=visitor(1)) as answer:
                assert answer.status == 200
            assert lost == [dying.key]

    asyncio.run(run())


def test_a_heartbeat_goes_on_at_the_next_replica():
    async def run():
        async with fronted("a", "b") as (client, stands, *_):
            dying = stands[await served_by(client, visitor(1))]
            async with client.get("/gradio_api/heartbeat/s", headers=visitor(1)) as stream:
                assert await stream.content.readuntil(b"\n\n") == f"data: {dying.key}\n\n".encode()
                await dying.die()
                again = await asyncio.wait_for(stream.content.readuntil(b"\n\n"), 20)
                assert again != f"data: {dying.key}\n\n".encode()

    asyncio.run(run())


def test_a_program_whose_stream_is_cut_reads_an_error_event():
    async def run():
        async with fronted("a", "b") as (client, stands, *_):
            dying = stands[await served_by(client, visitor(1))]
            async with client.get("/gradio_api/call/generate/e1", headers=visitor(1)) as stream:
                await stream.content.readuntil(b"\n\n")
                await dying.die()
                rest = (await asyncio.wait_for(stream.content.read(), 10)).decode()
            assert rest.startswith("event: error\n") and CUT in rest

    asyncio.run(run())


def test_without_a_replica_there_is_a_sentence_and_503():
    async def run():
        async with fronted("a") as (client, _, _, routing):
            routing.lose("a")
            async with client.get("/", headers=visitor(1)) as answer:
                assert answer.status == 503 and (await answer.json())["detail"] == NO_REPLICA

    asyncio.run(run())


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Proto"])
def test_a_stranger_cannot_say_who_they_are(header, monkeypatch):
    monkeypatch.setattr("composer.ui.replicas.front.TRUSTED", ())

    async def run():
        async with fronted("a") as (client, *_), client.get("/", headers={header: "https"}) as answer:
            assert (await answer.json())["headers"][header] in ("127.0.0.1", "http")

    asyncio.run(run())

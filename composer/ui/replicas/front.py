"""The address of all replicas: passes every request on to its visitor's replica, and streams as they come.

Serve has a proxy of its own. Its visitors stay with a replica by a header, which no browser sends with a page
or an event stream; it places them on a ring, so that whoever joins moves visitors of others; and a stream of
a dead replica ends without a word. So bytes take this way, and Serve keeps the replicas.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from composer.core.errors import ComposerError
from composer.ui.replicas.events import EventStream, PendingEvents, call_cut, event_of, session_of
from composer.ui.replicas.routing import Member, ReplicaTable

log = logging.getLogger(__name__)

COOKIE = "composer-visitor"
# Says which replica answered, for whoever looks for a fault.
REPLICA = "X-Replica"
VISITOR = re.compile(r"[0-9a-f]{32}")
# A week, in seconds.
KEPT = 604_800
# Bytes of a request's body that are kept to send it again; a larger one is sent once.
# Asking for an event twice costs no more than a text that nobody reads.
KEPT_BODY = 1_000_000
TRIES, PAUSE = 6, 0.5
# Seconds. Gradio's streams say something every 15, so one that is silent for longer is cut; any other answer
# may take its time. Uvicorn closes an idle connection after 5: no request may be sent just then.
CONNECTING, SILENCE, IDLE = 10.0, 60.0, 3.0
# Of one connection alone (RFC 9110), and those that the two ends set themselves.
OWN_HEADERS = frozenset(
    """
    connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer
    transfer-encoding upgrade content-length x-forwarded-for x-forwarded-proto
    """.split()  # noqa: SIM905 -- the list of the standard's names
)
# From these it is believed for whom they ask; uvicorn does the same.
TRUSTED = ("127.0.0.1", "::1")
Upstream = aiohttp.ClientResponse
Gone = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, ConnectionError)


class Front:
    """Answers every request.

    lost: told of a replica that does not answer any more.
    """

    def __init__(self, routing: ReplicaTable, lost: Callable[[Member], Awaitable[None]]):
        self._routing, self._lost = routing, lost
        self._pending = PendingEvents()
        self._session: aiohttp.ClientSession | None = None

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        app.cleanup_ctx.append(self._connected)
        return app

    async def _connected(self, app: web.Application):
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE)
        async with aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as self._session:
            yield

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The replica's answer. A visitor who has no replica yet is given one, and a cookie to find it by."""
        if not request.raw_path.startswith("/"):  # a whole URL, as proxies are asked: it would name the host
            return web.json_response({"detail": "The path of a request must begin with /."}, status=400)
        try:
            length = request.content_length
            small = length is not None and length <= KEPT_BODY
            body = (await request.read() if small else None) if request.can_read_body else b""
            return await self._passed_on(request, _visitor(request), body)
        except ComposerError as fault:
            return web.json_response({"detail": str(fault), "error": str(fault)}, status=503)
        except aiohttp.ClientConnectionResetError:  # the visitor has left; of a replica it is caught below
            log.debug("a visitor left amid the answer")
            return web.Response(status=503)

    async def _passed_on(self, request: web.Request, visitor: str, body: bytes | None) -> web.StreamResponse:
        for _ in range(TRIES):
            member = self._routing.choose(visitor)
            # A page's heartbeat lasts as long as the page, and is no reason to keep it where it is.
            with nullcontext() if _is_heartbeat(request) else self._routing.request(visitor):
                try:
                    upstream = await self._send(request, member, body)
                    joined = await upstream.read() if _is_join(request) else None
                except Gone as fault:
                    alive = await self._check(member)
                    if body is None:
                        raise ComposerError("The replica did not answer; try again.") from fault
                    if alive:  # a process that was killed may still be dying
                        await asyncio.sleep(PAUSE)
                    continue
                async with upstream:
                    response = _begun(request, member, upstream)
                    if joined is not None:
                        self._note(body or b"", joined)
                        await response.prepare(request)
                        await response.write_eof(joined)
                        return response
                    return await self._returned(request, visitor, member, upstream, response)
        raise ComposerError("No replica answers; try again in a minute.")

    async def _send(self, request: web.Request, member: Member, body: bytes | None) -> Upstream:
        peer, proto = _peer(request)
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in OWN_HEADERS
        )
        headers["X-Forwarded-For"], headers["X-Forwarded-Proto"] = peer, proto
        if _is_stream(request):
            headers["Accept-Encoding"] = "identity"  # its messages are read on the way
        speaks = _is_stream(request) or _is_heartbeat(request)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECTING, sock_read=SILENCE if speaks else None
        )
        return await self._session.request(
            request.method,
            URL(f"http://{member.host}:{member.port}{request.raw_path}", encoded=True),
            headers=headers,
            data=request.content if body is None else body or None,
            allow_redirects=False,
            timeout=timeout,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def _check(self, member: Member) -> bool:
        """Whether the replica can still be reached. Nobody is sent to one that cannot."""
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(member.host, member.port), CONNECTING)
            writer.close()
            return True
        except (OSError, TimeoutError):
            if self._routing.lose(member.key):
                log.warning("replica %s (process %d) does not answer any more", member.key, member.pid)
                await self._lost(member)
            return False

    async def _returned(
        self,
        request: web.Request,
        visitor: str,
        member: Member,
        upstream: Upstream,
        response: web.StreamResponse,
    ) -> web.StreamResponse:
        """The answer's body as it comes, and where it is cut what ends it well."""
        await response.prepare(request)
        if upstream.status == 200 and _is_stream(request):
            stream = EventStream(self._pending, request.query.get("session_hash", ""))
            await self._copied(upstream, response, member, stream.feed)
            await response.write(stream.end())
        elif upstream.status == 200 and _is_heartbeat(request):
            await self._copied(upstream, response, member)
            await self._kept_alive(request, visitor, response)
        elif not await self._copied(upstream, response, member):
            if "/call/" in request.path and upstream.content_type == "text/event-stream":
                await response.write(call_cut())
            elif request.transport is not None:
                request.transport.abort()  # so that nobody takes half of a file for the whole
        await response.write_eof()
        return response

    def _note(self, sent: bytes, answer: bytes) -> None:
        """Whoever was answered so waits for an event."""
        session, event = session_of(sent), event_of(answer)
        if session and event:
            self._pending.join(session, event)

    async def _copied(
        self,
        upstream: Upstream,
        response: web.StreamResponse,
        member: Member,
        read: Callable[[bytes], bytes] = bytes,
    ) -> bool:
        """Pass the answer's body on as it comes. False where it was cut."""
        chunks = upstream.content.iter_any()
        while True:
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                return True
            except Gone:
                await self._check(member)
                return False
            await response.write(read(chunk))

    async def _kept_alive(self, request: web.Request, visitor: str, response: web.StreamResponse) -> None:
        """Go on with a page's heartbeat at the visitor's next replica, so that the page does not notice.
        The server cancels this when the page has gone."""
        while True:
            member = await self._next_member(visitor)
            try:
                upstream = await self._send(request, member, b"")
            except Gone:
                await self._check(member)
                continue
            async with upstream:
                await self._copied(upstream, response, member)

    async def _next_member(self, visitor: str) -> Member:
        """The visitor's replica, as soon as there is one."""
        while True:
            await asyncio.sleep(1)
            with suppress(ComposerError):
                return self._routing.choose(visitor)


def _visitor(request: web.Request) -> str:
    """Who asks: what the cookie says, and for whoever has none their address."""
    cookie = request.cookies.get(COOKIE, "")
    return cookie if VISITOR.fullmatch(cookie) else _peer(request)[0]


def _begun(request: web.Request, member: Member, upstream: Upstream) -> web.StreamResponse:
    """The answer up to its body."""
    response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
    for name, value in upstream.headers.items():
        if name.lower() not in OWN_HEADERS:
            response.headers.add(name, value)
    response.headers[REPLICA] = member.key
    _give_cookie(request, response)
    if "Content-Length" in upstream.headers:
        response.content_length = upstream.content_length
    return response


def _give_cookie(request: web.Request, response: web.StreamResponse) -> None:
    if VISITOR.fullmatch(request.cookies.get(COOKIE, "")):
        return
    secure = _peer(request)[1] == "https"
    # Spaces show the page in a frame of another site.
    response.set_cookie(
        COOKIE,
        secrets.token_hex(16),
        max_age=KEPT,
        httponly=True,
        secure=secure,
        samesite="None" if secure else "Lax",
    )


def _peer(request: web.Request) -> tuple[str, str]:
    """The visitor's address and scheme, as far as they can be believed."""
    peer, scheme = request.remote or "", request.scheme
    if peer in TRUSTED:
        peer = request.headers.get("X-Forwarded-For", peer).split(",")[-1].strip()[:100] or peer
        scheme = "https" if request.headers.get("X-Forwarded-Proto", scheme) == "https" else "http"
    return peer, scheme


def _is_heartbeat(request: web.Request) -> bool:
    return "/heartbeat/" in request.path


def _is_join(request: web.Request) -> bool:
    return request.method == "POST" and request.path.endswith("/queue/join")


def _is_stream(request: web.Request) -> bool:
    return request.path.endswith("/queue/data")

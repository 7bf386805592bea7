"""The routes of a server with several bases: /base/NAME/ is a base's page, /bases lists and loads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from urllib.parse import quote, urlencode

from gradio.routes import App
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send

from composer.core.catalog_types import Catalog
from composer.core.errors import ComposerError, sanitize
from composer.core.names import unknown_name_message
from composer.ui.bases.loads import LoadedBases
from composer.ui.bases.offers import BaseOffer, offer
from composer.ui.bases.opening import ServedBase
from composer.ui.error_messages import error_message

# Longest request to load a base, in bytes.
LONGEST = 1000
Answer = Callable[[Request], Awaitable[Response]]
LOG_IN = "Log in at the start page first."


class BaseRoutes:
    """Answers for every base but the one at home, which is the server's own app.

    home: its name. allowed: whether whoever sent a request may enter; others are sent home, to the login.
    """

    def __init__(
        self,
        catalog: Catalog,
        home: str,
        bases: LoadedBases[ServedBase],
        allowed: Callable[[HTTPConnection], bool] = lambda connection: True,
    ):
        self._catalog, self._home, self._bases, self._allowed = catalog, home, bases, allowed

    @property
    def routes(self) -> list[BaseRoute]:
        """To stand before those of the server's own app."""
        router = Router()
        router.add_route("/bases", self._guarded(self.get), methods=["GET"])
        router.add_route("/bases", self._guarded(self.post), methods=["POST"])
        router.add_route("/base/{path:path}", self)  # no function: it gets every method, as ASGI has it
        return router.routes

    async def get(self, request: Request) -> Response:
        """Every base of the catalog: name, label, facts, path, state and what is being done for it."""
        return JSONResponse({"bases": await asyncio.to_thread(self._listed)})

    async def post(self, request: Request) -> Response:
        """Begin to load a base. The body is {"name": NAME}, with "agreed": true where it has a notice and is
        not here yet. A fault is {"detail": SENTENCE}."""
        try:
            # No page of another site can send this type without asking first.
            if not request.headers.get("content-type", "").startswith("application/json"):
                raise ComposerError("Send the name as application/json.")
            name, agreed = _asked(await request.body())
            if name not in self._catalog.bases:
                raise ComposerError(unknown_name_message("base", name, self._catalog.bases))
            found = await asyncio.to_thread(offer, self._catalog.bases[name])
            if found.reason:
                raise ComposerError(found.reason)
            if found.notice and not found.here and not agreed:
                raise ComposerError(f"Agree to the notice of {found.label} first: {found.notice.text}")
            if name != self._home:
                self._bases.start(name)
        except Exception as fault:
            return JSONResponse({"detail": error_message(fault)}, status_code=400)
        return await self.get(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page of a base that is loaded; the home page, which can load it, for one that is not."""
        name, slash, rest = scope["path_params"]["path"].partition("/")
        served = self._bases.get(name)
        if not self._allowed(HTTPConnection(scope)):
            await self._login(name, rest, scope)(scope, receive, send)
            return
        if served is not None and slash:
            # As behind a proxy that strips the path; the page knows it as its root path.
            path = f"/{rest}"
            stripped = {**scope, "path": path, "raw_path": quote(path).encode(), "root_path": ""}
            await served.app(stripped, receive, send)
            return
        answer = self._elsewhere(name, rest, scope)
        await answer(scope, receive, send)

    def _guarded(self, answer: Answer) -> Answer:
        async def guarded(request: Request) -> Response:
            if not self._allowed(request):
                return JSONResponse({"detail": LOG_IN}, status_code=401)
            return await answer(request)

        return guarded

    def _login(self, name: str, rest: str, scope: Scope) -> Response:
        """Home, which asks for the login, for who opens a page; a sentence for anything else."""
        if rest or scope.get("method") != "GET" or name not in self._catalog.bases:
            return JSONResponse({"detail": LOG_IN, "error": LOG_IN}, status_code=401)
        return RedirectResponse("../../" if scope["path"].endswith("/") else "../")

    def _elsewhere(self, name: str, rest: str, scope: Scope) -> Response:
        if rest or scope["method"] not in ("GET", "HEAD") or name not in self._catalog.bases:
            sentence = f"The base {sanitize(name)} is not loaded here; reload the page, or see /bases."
            return JSONResponse({"detail": sentence, "error": sentence}, status_code=404)
        up = "../../" if scope["path"].endswith("/") else "../"
        query = scope["query_string"].decode("latin-1")
        if name != self._home and self._bases.get(name) is None:
            query = "&".join([urlencode({"base": name}), *([query] if query else [])])
        elif name != self._home:
            up = f"{name}/"
        return RedirectResponse(f"{up}?{query}" if query else up)

    def _listed(self) -> list[dict[str, object]]:
        return [self._entry(name, offer(spec)) for name, spec in self._catalog.bases.items()]

    def _entry(self, name: str, found: BaseOffer) -> dict[str, object]:
        load = self._bases.latest(name)
        # A load that ends while this is written counts as under way: the base is among the loaded ones first.
        ended = load is not None and load.ended
        at_home = name == self._home
        entry: dict[str, object] = {
            "name": name,
            "label": found.label,
            "facts": found.facts,
            "path": "" if at_home else f"base/{name}/",
            "here": found.here,
            "loaded": at_home or name in self._bases.names,
            "reason": found.reason,
            "notice": asdict(found.notice) if found.notice else None,
        }
        if load is not None and not entry["loaded"]:
            entry["fault"] = load.fault if ended else ""
            entry["stage"] = None if ended else asdict(load.stage)
        return entry


def logged_in(app: App) -> Callable[[HTTPConnection], bool]:
    """Whether a request comes from somebody who logged in to Gradio's app, or need not."""

    def allowed(connection: HTTPConnection) -> bool:
        names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
        return app.auth is None or any(connection.cookies.get(name) in app.tokens for name in names)

    return allowed


def _asked(body: bytes) -> tuple[str, bool]:
    """The name in a request's body, and whether the notice was agreed to. Raises ComposerError."""
    try:
        given = json.loads(body) if len(body) <= LONGEST else None
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ComposerError('Ask for a base as {"name": NAME}; GET /bases has the names.')
    return given["name"], given.get("agreed") is True

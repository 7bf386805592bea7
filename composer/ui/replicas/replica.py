"""One replica: the engine and the page in a process that Ray Serve starts, checks, drains and replaces."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray

from composer.core.threads import run_in_short_lived_thread
from composer.ui.bases.opening import load_engine
from composer.ui.launch import Server, serving
from composer.ui.replicas.directory import NAME, NAMESPACE
from composer.ui.replicas.health import check_decoding, check_page
from composer.ui.replicas.remembering import RememberedStates, RememberedTokens
from composer.ui.replicas.routing import Member
from composer.ui.settings import Settings

log = logging.getLogger(__name__)

# Seconds for the directory to answer, which computes nothing.
ASKING = 5.0


@dataclass(frozen=True)
class Common:
    """What all replicas of a server have in common, so that a page of one goes on with another."""

    # A page that finds another one loads itself anew.
    app_id: int
    # Of the cookies of logins.
    cookie_id: str
    # Where the front runs: the address that may say for whom it asks.
    front: str


class Replica:
    """The deployment's class. Serve calls the methods without a name of their own."""

    def __init__(self, settings: Settings, common: Common):
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        os.environ.setdefault("FORWARDED_ALLOW_IPS", f"127.0.0.1,{common.front}")
        self._directory = ray.get_actor(NAME, NAMESPACE)
        here = ray.util.get_node_ip_address()
        host = "127.0.0.1" if here == common.front else here
        settings = replace(settings, host=host, port=_free_port(host))
        self._patience = settings.time_limit
        self._member = Member(secrets.token_hex(4), host, settings.port, os.getpid())
        engine = run_in_short_lived_thread(partial(load_engine, settings, settings.base, settings.compiled))
        self._open = ExitStack()
        self._server: Server = self._open.enter_context(serving(engine, settings))
        _share(self._server, common, RayMemory(self._directory))

    async def check_health(self) -> None:
        """Raises where the replica has to be replaced."""
        await asyncio.to_thread(check_decoding, self._server.runner.scheduler)
        await asyncio.to_thread(check_page, self._member.host, self._member.port)
        await self._directory.join.remote(self._member)

    async def __call__(self) -> str:
        """Serve wants one; visitors are answered at the replica's own port."""
        return self._member.key

    async def __del__(self) -> None:
        """Serve wants the replica to end: in a rolling restart, or with the server."""
        await self._directory.drain.remote(self._member.key)
        await self._directory.wait_for_release.remote(self._member.key, self._patience)
        # Closing more than this would take seconds, and the process ends.
        await asyncio.to_thread(self._server.end_texts)


class RayMemory:
    """A Memory in the directory. What cannot be asked for is as if it had not been remembered."""

    def __init__(self, directory: Any):
        self._directory = directory

    def remember(self, key: str, value: object) -> None:
        self._directory.remember.remote(key, value)

    def recall(self, key: str) -> Any:
        try:
            return self._directory.recall.remote(key).future().result(ASKING)
        except Exception as fault:
            log.warning("what was remembered of a visitor cannot be read: %s", type(fault).__name__)
            return None

    def forget(self, key: str) -> None:
        self._directory.forget.remote(key)


def _share(server: Server, common: Common, memory: RayMemory) -> None:
    """Have the page go on with what others of its kind have begun."""
    blocks, app, runner = server.blocks, server.blocks.app, server.runner
    blocks.app_id = common.app_id
    app.cookie_id, app.tokens = common.cookie_id, RememberedTokens(memory)
    app.state_holder = RememberedStates(blocks, memory, runner.added, runner.engine.base.spec.name)


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return free.getsockname()[1]

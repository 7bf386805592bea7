"""A replica as Ray Serve knows it: started, checked, drained and ended. Light, since the front imports it."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import Any

import ray

from composer.ui.replicas.directory import NAMESPACE
from composer.ui.settings import Settings

log = logging.getLogger(__name__)

# Seconds for the directory to answer, which computes nothing. A page's event loop waits for it.
ASKING = 2.0


@dataclass(frozen=True)
class Common:
    """What all replicas of a server have in common, so that a page of one goes on with another."""

    # Of the server, and of its directory.
    name: str
    # A page that finds another one loads itself anew.
    app_id: int
    # Of the cookies of logins.
    cookie_id: str
    # Where the front runs: the address that may say for whom it asks.
    front: str


class Replica:
    """The deployment's class. Visitors are answered at the worker's own port, not through Serve."""

    def __init__(self, settings: Settings, common: Common):
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
        from composer.ui.replicas.worker import Worker

        self._directory = ray.get_actor(common.name, NAMESPACE)
        here = ray.util.get_node_ip_address()
        host = "127.0.0.1" if here == common.front else here
        self._patience = settings.time_limit
        self._worker = Worker(settings, host, common, RayMemory(self._directory))

    async def check_health(self) -> None:
        """Raises where the replica has to be replaced."""
        await asyncio.to_thread(self._worker.check)
        await self._directory.join.remote(self._worker.member)

    async def __call__(self) -> str:
        """Serve wants something to call."""
        return self._worker.member.key

    async def __del__(self) -> None:
        """Serve wants the replica to end: in a rolling restart, or with the server."""
        await self._directory.drain.remote(self._worker.member.key)
        await self._directory.wait_for_release.remote(self._worker.member.key, self._patience)
        await asyncio.to_thread(self._worker.end_texts)


class RayMemory:
    """A Memory in the directory. What cannot be asked for is as if it had not been remembered."""

    def __init__(self, directory: Any):
        self._directory = directory
        self.recall("")  # the first call makes the connection, and no visitor is to wait for it

    def remember(self, key: str, value: object) -> None:
        """See Memory. Does not wait."""
        self._directory.remember.remote(key, value)

    def recall(self, key: str) -> Any:
        """See Memory."""
        try:
            return self._directory.recall.remote(key).future().result(ASKING)
        except Exception as fault:
            log.warning("what was remembered of a visitor cannot be read: %s", type(fault).__name__)
            return None

    def forget(self, key: str) -> None:
        """See Memory. Does not wait."""
        self._directory.forget.remote(key)

"""Start Ray, the replicas and the front; restart the replicas when asked to; end them all."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import signal
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from composer.adapters.catalog import load_catalog
from composer.core.errors import ComposerError
from composer.ui.settings import Settings

if TYPE_CHECKING:
    from composer.ui.replicas.routing import Member

log = logging.getLogger(__name__)

MISSING = 'More than one replica needs Ray Serve: pip install "ray[serve]>=2.50,<3".'
# Seconds between two health checks; how many fail before a replica is replaced is Serve's to say (3).
CHECKED_EVERY = 5.0
# Seconds for a check to answer; more than health.py waits for both of its parts.
CHECK_TIMEOUT = 45.0
# Seconds that a draining replica has beyond the longest text.
BEYOND = 30.0
# Seconds to wait for news of the directory before asking again, and between two looks at who is draining.
NEWS, LOOK = 10.0, 0.1
# Seconds for all replicas to end their texts and themselves; whoever ends a server gives it 10.
ENDING = 7.0
TERMINATED = 143


def launch_replicas(settings: Settings, zero_gpu: bool = False) -> None:
    """Serve the page from so many replicas until it is interrupted. Raises ComposerError."""
    if zero_gpu:
        raise ComposerError("On ZeroGPU every text has a process of its own: start with --replicas 1.")
    # In time: Serve would try each replica several times.
    load_catalog(settings.catalog).base(settings.base)
    ray = _ray()
    try:
        ended_by = asyncio.run(_Cluster(ray, settings).serve())
    finally:
        ray.shutdown()
    if ended_by == signal.SIGTERM:
        raise SystemExit(TERMINATED)


def _ray() -> Any:
    """Ray, running. Raises ComposerError where it is missing or does not start."""
    # Ray has its workers compute at the lowest priority, so that its own processes come first; a replica
    # computes as the page does that is alone.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import aiohttp  # noqa: F401 -- a part of ray[serve]
        import ray
        from ray import serve  # noqa: F401
    except ImportError as fault:
        raise ComposerError(MISSING) from fault
    try:
        address = os.environ.get("RAY_ADDRESS") or "local"
        ray.init(address, include_dashboard=False if address == "local" else None, logging_level="WARNING")
    except Exception as fault:
        raise ComposerError(
            "Ray did not start: check RAY_ADDRESS, the free memory and the space in /tmp "
            "(--verbose tells more)."
        ) from fault
    return ray


class _Cluster:
    """The replicas and the front of one server."""

    def __init__(self, ray: Any, settings: Settings):
        from ray import serve

        from composer.ui.replicas.directory import NAMESPACE, Directory
        from composer.ui.replicas.replica import Common, Replica
        from composer.ui.replicas.routing import ReplicaTable

        self._settings, self._serve, self._routing = settings, serve, ReplicaTable()
        # A cluster may have several of them.
        self._name = f"adapter-composer-{secrets.token_hex(4)}"
        options = {"name": self._name, "namespace": NAMESPACE, "num_cpus": 0, "max_restarts": -1}
        self._directory = ray.remote(Directory).options(**options).remote()
        front = ray.util.get_node_ip_address()
        common = Common(self._name, random.getrandbits(32), secrets.token_urlsafe(16), front)
        deployment = serve.deployment(
            name="replica",
            num_replicas=settings.replicas,
            health_check_period_s=CHECKED_EVERY,
            health_check_timeout_s=CHECK_TIMEOUT,
            graceful_shutdown_timeout_s=settings.time_limit + BEYOND,
            graceful_shutdown_wait_loop_s=0.1,
            ray_actor_options=_share_of(ray.cluster_resources(), settings.replicas),
        )(Replica)
        self._application = deployment.bind(settings, common)
        self._ended: asyncio.Future[int] | None = None
        self._restarting: asyncio.Task[None] | None = None

    async def serve(self) -> int:
        """Serve until a signal comes; returns its number."""
        from aiohttp import web

        from composer.ui.replicas.front import Front

        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        with suppress(NotImplementedError, AttributeError):  # Windows
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._end, number)
            loop.add_signal_handler(signal.SIGHUP, self._restart)
        starting = asyncio.create_task(self._start())
        await asyncio.wait([starting, self._ended], return_when=asyncio.FIRST_COMPLETED)
        if self._ended.done():
            return self._ended.result()
        await starting
        runner = web.AppRunner(
            Front(self._routing, self._lost).app(), handler_cancellation=True, access_log=None
        )
        await runner.setup()
        followers = [asyncio.create_task(self._follow()), asyncio.create_task(self._release())]
        try:
            await self._open(runner)
            return await self._ended
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._close(), ENDING)
            for each in followers:
                each.cancel()
            with suppress(TimeoutError):
                await asyncio.wait_for(runner.cleanup(), 1)

    async def _open(self, runner: Any) -> None:
        from aiohttp import web

        host, port = self._settings.host.strip("[]"), self._settings.port
        await web.TCPSite(runner, host, port, shutdown_timeout=0.5).start()
        shown = f"[{host}]" if ":" in host else "localhost" if host == "0.0.0.0" else host
        with suppress(OSError):
            print(f"The page is at http://{shown}:{port}/ (Ctrl+C ends it).", flush=True)

    async def _start(self) -> None:
        """Start the replicas, or replace them one after the other."""
        try:
            await _beside(self._run)
        except Exception as fault:
            log.debug("Serve", exc_info=fault)
            raise ComposerError(
                "The replicas did not start: the log has the reason of each, and --replicas 1 shows whether "
                "one starts alone."
            ) from fault

    def _run(self) -> None:
        self._serve.start(proxy_location="Disabled")
        self._serve.run(self._application, name=self._name, route_prefix=None)

    async def _follow(self) -> None:
        """Keep the table as the directory has it."""
        known = -1
        while True:
            try:
                version, members = await self._directory.members.remote(known, NEWS)
            except Exception as fault:  # it is being started anew, and forgot its version
                log.warning("the directory of replicas does not answer (%s)", type(fault).__name__)
                known = -1
                await asyncio.sleep(1)
                continue
            if version not in (known, 0):
                self._tell_of(members)
                self._routing.update(members)
            known = version

    def _tell_of(self, members: list[Member]) -> None:
        before = {each.key: each for each in self._routing.members}
        for each in members:
            if each.key not in before:
                log.info("replica %s (process %d) is at %s:%d", each.key, each.pid, each.host, each.port)
            elif each.draining and not before[each.key].draining:
                log.info("replica %s (process %d) is draining", each.key, each.pid)

    async def _release(self) -> None:
        """Let a draining replica end as soon as nobody reads a text from it."""
        while True:
            await asyncio.sleep(LOOK)
            for each in self._routing.members:
                if each.draining and not self._routing.busy(each.key):
                    log.info("replica %s (process %d) has no more texts to end", each.key, each.pid)
                    self._routing.lose(each.key)
                    self._directory.release.remote(each.key)

    async def _lost(self, member: Member) -> None:
        self._directory.leave.remote(member.key)

    def _end(self, number: int) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(number)

    def _restart(self) -> None:
        """Replace the replicas one after the other, each when its texts have ended."""
        if self._restarting is not None and not self._restarting.done():
            log.info("a rolling restart is under way already")
            return
        log.info("a rolling restart begins")
        self._restarting = asyncio.create_task(self._rolled())

    async def _rolled(self) -> None:
        try:
            await self._start()
            log.info("all replicas are new")
        except ComposerError as fault:
            log.error("%s", fault)

    async def _close(self) -> None:
        """End the texts of all replicas with a sentence, and the replicas."""
        with suppress(Exception):  # the processes end in any case
            await self._directory.close.remote()
            await _beside(partial(self._serve.delete, self._name))


async def _beside(work: Callable[[], None]) -> None:
    """Do `work` in a thread that nobody waits for at the end: a signal may come while Serve starts."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as fault:  # raised again where it is awaited
            if not future.cancelled():
                future.set_exception(fault)
        else:
            if not future.cancelled():
                future.set_result(None)

    Thread(target=run, name="serve", daemon=True).start()
    await asyncio.wrap_future(future)


def _share_of(resources: dict[str, float], replicas: int) -> dict[str, float]:
    """What Ray reserves for each: its share of the cores, and a GPU where there are any. Raises
    ComposerError."""
    cores, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    if 0 < gpus < replicas:
        raise ComposerError(
            f"{replicas} replicas need a GPU each, and there are {gpus:g}: start with --replicas {gpus:g}."
        )
    share = cores / replicas
    return {"num_cpus": float(int(share)) if share >= 1 else share, "num_gpus": 1.0 if gpus else 0.0}

"""Start the server: the page over an engine, and the pages of other bases beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from threading import Event
from time import monotonic, sleep

import gradio as gr

from composer.adapters.hub import stay_on_the_hub
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.model.checkpoints.files import fetch_base
from composer.ui.address import check_address
from composer.ui.bases.loads import LoadedBases
from composer.ui.bases.menu import BaseMenu
from composer.ui.bases.opening import FetchBase, Opener, ServedBase, added_adapters, make_runner, page_options
from composer.ui.bases.serving import BaseRoutes, logged_in
from composer.ui.heap import trimmed
from composer.ui.page import Page
from composer.ui.runners.base import Runner
from composer.ui.runners.budgets import Budgets
from composer.ui.runners.zero_gpu import ZeroGpuRunner
from composer.ui.sessions import keep_sessions
from composer.ui.settings import Settings

log = logging.getLogger(__name__)

# Seconds for texts to end when the server does, and for Gradio to hand on what they ended with. It takes up
# to 5 more to close its connections; whoever ends a server gives it 10.
GRACE, DELIVERY = 3.0, 0.5


@dataclass(frozen=True)
class Server:
    """A page that is being served."""

    blocks: gr.Blocks
    runner: Runner
    # The other bases; None where there is nothing to choose.
    bases: LoadedBases[ServedBase] | None

    def end_texts(self) -> None:
        """End what is written with a sentence, and wait until its visitors have it."""
        _end_texts([self.runner, *(each.runner for each in (self.bases.served if self.bases else ()))])


def launch(
    engine: Engine,
    settings: Settings,
    on_gpu: Callable[[Callable], Callable] | None = None,
    fetch: FetchBase | None = fetch_base,
) -> None:
    """Serve the page until it is interrupted. See `serving`."""
    with serving(engine, settings, on_gpu, fetch) as server:
        with suppress(OSError):  # of a stdout that nobody reads
            print(f"The page is at {server.blocks.local_url} (Ctrl+C ends it).", flush=True)
        with suppress(KeyboardInterrupt):
            Event().wait()


@contextmanager
def serving(
    engine: Engine,
    settings: Settings,
    on_gpu: Callable[[Callable], Callable] | None = None,
    fetch: FetchBase | None = fetch_base,
) -> Iterator[Server]:
    """Serve the page until the end of the block.

    on_gpu: on ZeroGPU, what wraps the one function that touches the model; None: it runs in this process.
    fetch: brings the files of a base that a visitor chooses and that are not here.
    """
    stay_on_the_hub()
    budgets = Budgets.of(settings)
    if on_gpu:
        runner = ZeroGpuRunner(engine, on_gpu, added_adapters(engine, settings), budgets)
    else:
        runner = make_runner(engine, settings, budgets)
    menu = None if on_gpu else _menu(engine, settings)
    if on_gpu:
        log.info("one base is offered: on ZeroGPU every call is forked from what was loaded at the start")
    page = Page(runner, settings, menu)
    with trimmed(), closing(runner):
        blocks = page.blocks()
        try:
            blocks.launch(
                server_name=_as_in_a_url(settings.host),
                server_port=settings.port,
                share=False,
                state_session_capacity=blocks.state_session_capacity,
                max_threads=blocks.max_threads,
                quiet=True,
                prevent_thread_lock=True,
                auth=settings.login,
                **page_options(page),
            )
        except (OSError, ValueError) as fault:
            check_address(settings.host, settings.port)  # somebody else was quicker
            raise ComposerError(
                "The server did not start: it must reach itself over the network, so check proxy settings "
                "(NO_PROXY=localhost,127.0.0.1) and the firewall (--verbose tells more)."
            ) from fault
        keep_sessions(blocks)
        bases = None if menu is None else _serve_bases(blocks, settings, menu, budgets, fetch)
        server = Server(blocks, runner, bases)
        try:
            yield server
        finally:
            server.end_texts()
            if bases is not None:
                bases.close()
            blocks.close(verbose=False)


def _end_texts(runners: Sequence[Runner]) -> None:
    for each in runners:
        each.close()
    end = monotonic() + GRACE
    while monotonic() < end and not all(each.use.idle for each in runners):
        sleep(0.05)
    sleep(DELIVERY)


def _menu(engine: Engine, settings: Settings) -> BaseMenu | None:
    """The menu of the page that the server starts with; None where it has nothing to choose."""
    if settings.max_bases == 1 or len(engine.catalog.bases) == 1:
        return None
    name = engine.base.spec.name
    return BaseMenu(engine.catalog, name, name)


def _serve_bases(
    blocks, settings: Settings, menu: BaseMenu, budgets: Budgets, fetch: FetchBase | None
) -> LoadedBases:
    """Have the server answer for the other bases too."""
    root = os.environ.get("GRADIO_ROOT_PATH", "").rstrip("/")
    opener = Opener(menu.catalog, settings, lambda name: replace(menu, here=name), budgets, root, fetch)
    bases = LoadedBases(settings.max_bases - 1, opener.prepare, opener.load)
    # Before the app's own routes, of which none begins so today.
    blocks.app.router.routes[:0] = BaseRoutes(menu.catalog, menu.home, bases, logged_in(blocks.app)).routes
    return bases


def _as_in_a_url(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host

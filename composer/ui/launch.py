"""Start the server: the page over an engine, with the runner that the machine asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from threading import Event

from composer.adapters.hub import added_cache
from composer.core.errors import ComposerError
from composer.engine.added_adapters import AddedAdapters
from composer.engine.engine import Engine
from composer.ui.address import check_address
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.runners.zero_gpu import ZeroGpuRunner
from composer.ui.settings import Settings
from composer.ui.theme import make_css, make_theme, page_script


def launch(engine: Engine, settings: Settings, on_gpu: Callable[[Callable], Callable] | None = None) -> None:
    """Serve the page until it is interrupted.

    on_gpu: on ZeroGPU, what wraps the one function that touches the model; None: it runs in this process.
    """
    memory, disk = settings.added_mb * 1e6, settings.added_disk_mb * 1e6
    added = AddedAdapters(engine, memory, disk, added_cache())
    runner = ZeroGpuRunner(engine, on_gpu, added) if on_gpu else BatchedRunner(engine, settings, added)
    page = Page(runner, settings)
    with closing(runner):
        blocks = page.blocks()
        try:
            blocks.launch(
                server_name=_as_in_a_url(settings.host),
                server_port=settings.port,
                theme=make_theme(),
                css=make_css(page.context.slots, page.context.examples),
                js=page_script(),
                show_error=False,
                footer_links=["api"],
                run_history=False,
                ssr_mode=False,
                enable_monitoring=False,
                pwa=False,
                mcp_server=True,
                share=False,
                max_file_size="1mb",
                state_session_capacity=200,
                # Gradio has no more events under way, whatever their kind.
                max_threads=page.events,
                quiet=True,
                prevent_thread_lock=True,
            )
        except (OSError, ValueError) as fault:
            check_address(settings.host, settings.port)  # somebody else was quicker
            raise ComposerError(
                "The server did not start: it must reach itself over the network, so check proxy settings "
                "(NO_PROXY=localhost,127.0.0.1) and the firewall (--verbose tells more)."
            ) from fault
        with suppress(OSError):  # of a stdout that nobody reads
            print(f"The page is at {blocks.local_url} (Ctrl+C ends it).", flush=True)
        try:
            with suppress(KeyboardInterrupt):
                Event().wait()
        finally:
            blocks.close(verbose=False)


def _as_in_a_url(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host

"""Start the server: the page over an engine, with the runner that the machine asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from composer.engine import Engine
from composer.ui.crowd import Crowd
from composer.ui.forked import Forked
from composer.ui.page import Page
from composer.ui.settings import Settings
from composer.ui.theme import make_css, make_theme, page_script


def launch(engine: Engine, settings: Settings, on_gpu: Callable[[Callable], Callable] | None = None) -> None:
    """Serve the page until it is interrupted.

    on_gpu: on ZeroGPU, what wraps the one function that touches the model; None: it runs in this process.
    """
    runner = Forked(engine, on_gpu) if on_gpu else Crowd(engine, settings)
    page = Page(runner, settings)
    with closing(runner):
        page.blocks().launch(
            server_name=settings.host,
            server_port=settings.port,
            theme=make_theme(),
            css=make_css(page.slots),
            js=page_script(),
            show_error=False,
            footer_links=["api"],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            share=False,
            max_file_size="1mb",
            state_session_capacity=200,
            max_threads=page.events,  # of which Gradio has no more events under way, whatever their kind
        )

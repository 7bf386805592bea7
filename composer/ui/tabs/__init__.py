"""The page's tabs, one file each, and those of other packages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from composer.core.plugins import plugins
from composer.ui.runners.base import Runner
from composer.ui.settings import Settings

log = logging.getLogger(__name__)

# Other packages name an ExtraTab under it in their entry points.
GROUP = "composer.tabs"


@dataclass(frozen=True)
class ExtraTab:
    """A tab of another package, shown after the page's own."""

    title: str
    # Lays the tab out inside the current Blocks context and connects its events.
    build: Callable[[Runner, Settings], None]


def build_extra_tabs(runner: Runner, settings: Settings) -> None:
    """Adds the tabs of other packages. A tab that fails shows an error in its place."""
    for extra in plugins(GROUP, ExtraTab):
        with gr.Tab(extra.title):
            try:
                extra.build(runner, settings)
            except Exception:
                log.exception("the tab %s of another package could not be built", extra.title)
                gr.Markdown("This tab could not be built. The server's log says why.")

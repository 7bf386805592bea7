"""The next words of what the controls say, computed while nothing is generated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import gradio as gr

from composer.ui.components import next_words
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.runners.base import Withdrawn
from composer.ui.tabs.compose import ComposeTab, Controls
from composer.ui.validation import Request

# Asked for outside Gradio's queue, which looks for news only every 50 ms.
AT_ONCE = {
    "queue": False,
    "api_visibility": "private",
    "show_progress": "hidden",
    # A newer move takes the place of an older one, which is withdrawn.
    "trigger_mode": "multiple",
}
# What takes longer comes through the queue, where nobody's browser gives up on it.
LATER = {
    "concurrency_id": "preview",
    "concurrency_limit": 8,
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
}
# Seconds after which a visitor is told why nothing moves.
PATIENCE = 0.5
WAITS = "Reading the next words. Texts that are being written come first."


@dataclass
class Latest:
    """A visitor's newest preview: its number, and what is still being read for it."""

    number: int = 0
    pending: asyncio.Future[dict[str, object]] | None = None

    def begin(self) -> int:
        """Withdraws the earlier ones."""
        self.number += 1
        self.pending = None
        return self.number


class Previewing:
    """The handlers of the panel of next words."""

    def __init__(self, context: PageContext):
        self._context = context

    def connect(self, tab: ComposeTab, latest: gr.State) -> None:
        """Connect everything after which the next words are others."""
        controls = tab.controls
        inputs = [latest, *controls.inputs]
        gr.on(controls.preview_triggers, partial(self.preview, controls), inputs, tab.next_words, **AT_ONCE)
        # The panel itself asks for the rest when it was told to wait.
        tab.next_words.edit(self.rest, latest, tab.next_words, **LATER)

    def after(self, event: gr.events.Dependency, tab: ComposeTab, latest: gr.State) -> None:
        """Show the next words of the controls after an event that has changed them."""
        inputs = [latest, *tab.controls.inputs]
        event.then(partial(self.preview, tab.controls), inputs, tab.next_words, **AT_ONCE)

    async def preview(self, controls: Controls, latest: Latest, *values) -> dict[str, object]:
        """The panel for what the controls say now, or for now a sentence if it takes long."""
        try:
            read = controls.read(values)
            if not str(read["prompt"] or "").strip():
                latest.begin()
                return next_words.message(next_words.EMPTY)
            request = self._context.request(read)
        except Exception as fault:
            return next_words.message(error_message(fault))
        return await self.words(request, latest)

    async def words(self, request: Request, latest: Latest, written: Sequence[int] = ()) -> dict[str, object]:
        """The panel of a request, after what is written, or for now a sentence if it takes long."""
        work = asyncio.ensure_future(self._read(request, latest, latest.begin(), written))
        if (await asyncio.wait({work}, timeout=PATIENCE))[0]:
            return work.result()
        latest.pending = work
        return next_words.waiting(WAITS)

    async def rest(self, latest: Latest) -> dict[str, object]:
        """The panel that took long; nothing where none did."""
        work, latest.pending = latest.pending, None
        return gr.skip() if work is None else await work

    async def _read(
        self, request: Request, latest: Latest, number: int, written: Sequence[int]
    ) -> dict[str, object]:
        context = self._context
        try:
            found = await asyncio.to_thread(
                context.runner.next_tokens,
                replace(request, written=tuple(written)),
                context.names(request.added),
                lambda: latest.number != number,
            )
        except Withdrawn:
            return gr.skip()  # a newer one is on its way
        except Exception as fault:
            return next_words.message(error_message(fault))
        legend = context.by_name(request.added)
        return next_words.view(found, legend, request.composition.weights, bool(written))

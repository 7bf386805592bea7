"""The next words of what the controls say, computed while nothing is generated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial

import gradio as gr

from composer.ui.components import next_words
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.tabs.compose import ComposeTab, Controls
from composer.ui.validation import Request

# Next words: as many at once as a queue's worth of visitors asks for; the engine reads them one by one.
PREVIEW = {
    "concurrency_id": "preview",
    "concurrency_limit": 8,
    "api_visibility": "private",
    "show_progress": "hidden",
    # A newer move takes the place of an older one, which is withdrawn.
    "trigger_mode": "multiple",
}
# Seconds after which a visitor is told why nothing moves.
PATIENCE = 0.5
WAITS = "Reading the next words. Texts that are being written come first."


@dataclass
class Latest:
    """The number of a visitor's newest preview."""

    number: int = 0

    def begin(self) -> int:
        """Withdraws the earlier ones."""
        self.number += 1
        return self.number


class Previewing:
    """The handlers of the panel of next words."""

    def __init__(self, context: PageContext):
        self._context = context

    def connect(self, tab: ComposeTab, latest: gr.State) -> None:
        """Connect everything after which the next words are others."""
        gr.on(
            tab.controls.preview_triggers,
            partial(self.preview, tab.controls),
            [latest, *tab.controls.inputs],
            tab.next_words,
            **PREVIEW,
        )

    async def preview(self, controls: Controls, latest: Latest, *values) -> AsyncIterator[dict[str, object]]:
        """The panel for what the controls say now."""
        try:
            read = controls.read(values)
            if not str(read["prompt"] or "").strip():
                latest.begin()
                yield next_words.message(next_words.EMPTY)
                return
            request = self._context.request(read)
        except Exception as fault:
            yield next_words.message(error_message(fault))
            return
        async for words in self.words(request, latest):
            yield words

    async def words(
        self, request: Request, latest: Latest, written: Sequence[int] = ()
    ) -> AsyncIterator[dict[str, object]]:
        """The panel of a request, after what is written; before it a sentence if other texts come first."""
        number = latest.begin()
        context = self._context
        work = asyncio.ensure_future(
            asyncio.to_thread(
                context.runner.next_tokens,
                request.prompt,
                request.composition,
                written,
                lambda: latest.number != number,
            )
        )
        try:
            if not (await asyncio.wait({work}, timeout=PATIENCE))[0]:
                yield next_words.waiting(WAITS)
            found = await work
            yield next_words.view(found, context.by_name(), request.composition.weights, bool(written))
        except CancelledError:
            return  # a newer one is on its way
        except Exception as fault:
            yield next_words.message(error_message(fault))

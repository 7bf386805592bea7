"""Conflict: from the controls and the text that stands there to what the mix does inside the model."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import gradio as gr

from composer.analysis.explanation import Explanation
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.handlers.generating import CHEAP, RUN_BEGINS
from composer.ui.runners.base import LoadingStarted, MergeStarted
from composer.ui.runners.throttle import throttled
from composer.ui.tabs.compose import ComposeTab, Controls
from composer.ui.tabs.conflict import ConflictTab
from composer.ui.validation import Request
from composer.ui.views import conflict
from composer.ui.views.generation import Progress

# Tokens of a text that is written for it.
LONGEST = 40


class Explaining:
    """The handlers of the tab of conflicts."""

    def __init__(self, context: PageContext):
        self._context = context

    def connect(
        self, compose: ComposeTab, tab: ConflictTab, progress: gr.State, model: dict[str, object]
    ) -> None:
        """model: the concurrency of events that occupy the model."""
        quiet = {"show_progress": "hidden", "api_visibility": "private", **model}
        tab.measure.click(None, None, [tab.stop, tab.results], js=RUN_BEGINS, **CHEAP)
        run = tab.measure.click(
            partial(self.measure, compose.controls),
            [progress, *compose.controls.inputs],
            [tab.results, tab.stop],
            **quiet,
        )
        tab.stop.click(self.stopped, None, [tab.results, tab.stop], cancels=[run], **CHEAP)

    async def stopped(self) -> tuple:
        """What there is after Stop."""
        return conflict.fault("Stopped."), gr.update(interactive=False)

    async def measure(self, controls: Controls, progress: Progress | None, *values) -> AsyncIterator[tuple]:
        """Yields (results, Stop button)."""
        context, off = self._context, gr.update(interactive=False)
        try:
            request = self._request(context.request(controls.read(values)), progress)
            began = time.monotonic()
            yield conflict.busy("Reading the prompt"), gr.update(interactive=True)
            items = context.runner.explain(request, context.names(request.added))
            async with aclosing(throttled(items, context.settings.updates_per_second)) as groups:
                async for group in groups:
                    for event in group:
                        if isinstance(event, Explanation):
                            legend = {each["name"]: each for each in context.lanes(request)}
                            yield conflict.view(event, legend, time.monotonic() - began), off
                        else:
                            yield conflict.busy(_stage(event)), gr.skip()
        except Exception as fault:
            yield conflict.fault(error_message(fault)), off

    def _request(self, request: Request, progress: Progress | None) -> Request:
        """The request with the text that stands under Compose, if it is one of this prompt and this mix."""
        if not any(request.composition.weights.values()):
            raise ComposerError(
                "Every slider is at 0. Move one under Compose, or click a preset, and measure again."
            )
        written = (
            progress.tokens if progress is not None and _asked(progress.request) == _asked(request) else ()
        )
        sampling = replace(request.sampling, max_new_tokens=min(request.sampling.max_new_tokens, LONGEST))
        return replace(request, sampling=sampling, written=written)


def _asked(request: Request) -> tuple[str, Composition]:
    """The prompt and the mix, without the adapters at 0."""
    used = {name: weight for name, weight in request.composition.weights.items() if weight}
    return request.prompt, replace(request.composition, weights=used)


def _stage(event: str | MergeStarted | LoadingStarted) -> str:
    if isinstance(event, LoadingStarted):
        return f"Loading {', '.join(event.names)} again"
    return "Preparing the adapters for this method" if isinstance(event, MergeStarted) else event

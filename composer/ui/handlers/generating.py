"""Generate, Step, Back and Stop: from the controls to the live view and the figures."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from functools import partial

import gradio as gr
import numpy as np

from composer.analysis.text_reading import TextReading
from composer.core.results import Fusion, Step
from composer.engine.scheduler import QueueUpdate
from composer.ui.components import curves, next_words
from composer.ui.components.contribution_map import Status, message
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.handlers.previewing import AT_ONCE, Latest, Previewing
from composer.ui.runners.base import LoadingStarted, MergeStarted, RunEvent
from composer.ui.runners.throttle import throttled
from composer.ui.tabs.compose import ComposeTab, Controls, new_seed
from composer.ui.views.generation import Progress

CHEAP = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
# In the browser, before the server answers, where a tab's results are shown in order (assets/ui/node.js).
RUN_BEGINS = """() => [{__type__: "update", interactive: true},
  {message: "Waiting for the model…", busy: true, begins: true}]"""
# In the browser, before the server answers: Stop can be pressed, and the status line says what is awaited.
ON_CLICK = """() => [{__type__: "update", interactive: true},
  {status: {phase: "reading", message: "Waiting for the model…"}}]"""
OFF = {"interactive": False}


class Generating:
    """The handlers of the buttons that make text. `progress` is the visitor's gr.State."""

    def __init__(self, context: PageContext, previewing: Previewing):
        self._context, self._previewing = context, previewing

    def connect(
        self, tab: ComposeTab, progress: gr.State, latest: gr.State, model: dict[str, object]
    ) -> list:
        """Returns the events that write texts. model: the concurrency of events that occupy the model."""
        tab.generate.click(None, None, [tab.stop, tab.live], js=ON_CLICK, **CHEAP)
        figures = [tab.live, tab.fusion, tab.contribution, progress, tab.stop, tab.controls.curves]
        quiet = {"show_progress": "hidden", "api_visibility": "private", **model}
        run = tab.generate.click(partial(self.generate, tab.controls), tab.controls.inputs, figures, **quiet)
        shown, inputs = [tab.live, progress], [progress, *tab.controls.inputs]
        # A text that is being written ends here, and goes on step by step.
        step = tab.step.click(partial(self.step, tab.controls), inputs, shown, cancels=[run], **quiet)
        back = tab.back.click(self.back, progress, shown, **CHEAP)
        for moved in (step, back):
            moved.then(partial(self.following, tab.controls), [latest, *inputs], tab.next_words, **AT_ONCE)
        tab.stop.click(
            self.stopped,
            [progress],
            [tab.live, tab.contribution, progress, tab.stop],
            cancels=[run, step],
            **CHEAP,
        )
        tab.dice.click(new_seed, None, tab.controls.sampling["seed"], **CHEAP)
        return [run, step]

    async def generate(self, controls: Controls, *values) -> AsyncIterator[tuple]:
        """Yields (live view, fusion figure, contribution figure, progress, Stop button, curves)."""
        skip, off = gr.skip(), gr.update(**OFF)
        context = self._context
        try:
            request = context.request(controls.read(values))
            progress = context.progress(request)
            yield progress.reading(), skip, skip, progress, gr.update(interactive=True), skip
            items = context.runner.run(request, progress.names)
            async with aclosing(throttled(items, context.settings.updates_per_second)) as groups:
                async for group in groups:
                    if progress.stopped:
                        return  # the last picture is on its way: nothing may follow it
                    view, fusion, contribution, presets = self._tell(progress, group)
                    yield view, fusion, contribution, skip, skip, presets
            contribution = skip if progress.drawn else progress.contribution_figure()
            yield progress.finished(), skip, contribution, progress, off, skip
        except Exception as fault:  # the last place that can tell the visitor anything
            yield status_update(error_message(fault)), skip, skip, None, off, skip

    async def step(self, controls: Controls, progress: Progress | None, *values) -> tuple:
        """One more token, under what the controls say now. Returns (live view, progress)."""
        try:
            request = self._context.request(controls.read(values))
            room = request.sampling.max_new_tokens
            before = () if progress is None else progress.steps
            progress_before = progress
            if progress is None or progress.request.prompt != request.prompt or _ended(before):
                before = ()
            written = tuple(each.token for each in before)
            request = replace(request, sampling=replace(request.sampling, max_new_tokens=1), written=written)
            progress = self._context.progress(request, room=max(room, len(written) + 1))
            before = [] if progress_before is None else _fitting(progress_before, len(before), progress)
            progress.steps = [replace(each, finish=None) for each in before]
            items = self._context.runner.run(request, progress.names, read=False)
            async with aclosing(throttled(items, self._context.settings.updates_per_second)) as groups:
                async for group in groups:
                    progress.steps += [each for each in group if isinstance(each, Step)]
            return progress.finished() if _ended(progress.steps) else progress.paused(), progress
        except Exception as fault:
            return status_update(error_message(fault)), gr.skip()

    def back(self, progress: Progress | None) -> tuple:
        """One token less. Returns as `step`."""
        if progress is None or not progress.steps:
            return status_update("There is no token to take back.", "idle"), gr.skip()
        shorter = self._context.progress(progress.request, room=progress.room)
        shorter.steps = [replace(each, finish=None) for each in progress.steps[:-1]]
        return shorter.paused(), shorter

    async def following(
        self, controls: Controls, latest: Latest, progress: Progress | None, *values
    ) -> dict[str, object]:
        """The words that can follow the text so far."""
        try:
            request = self._context.request(controls.read(values))
        except Exception as fault:
            return next_words.message(error_message(fault))
        written = progress.tokens if progress and progress.request.prompt == request.prompt else ()
        return await self._previewing.words(request, latest, written)

    async def stopped(self, progress: Progress | None) -> tuple:
        """The final view after Stop. Runs in the event loop, so never inside a burst."""
        off = gr.update(**OFF)
        if progress is None:
            return status_update("Stopped before the model began.", "stopped"), gr.skip(), None, off
        progress.stopped = True
        return progress.finished(), progress.contribution_figure(), progress, off

    def _tell(self, progress: Progress, group: Sequence[RunEvent]) -> tuple:
        """Live view, fusion figure, contribution figure and the curves' presets after a burst."""
        view = fusion = contribution = presets = gr.skip()
        for event in group:
            if isinstance(event, QueueUpdate):
                view = progress.waiting(event.position, self._context.settings.slots)
            elif isinstance(event, MergeStarted):
                view = progress.making()
            elif isinstance(event, LoadingStarted):
                view = progress.loading(event.names)
            elif isinstance(event, Fusion):
                fusion, progress.fusion = progress.fusion_figure(event), event
                presets = gr.update(alpha=curves.alpha_curves(progress.shared(event)))
            elif isinstance(event, TextReading):
                progress.read = event
        if steps := [event for event in group if isinstance(event, Step)]:
            begins = not progress.steps
            view = progress.writing(steps)
            if begins and progress.fusion is None:
                fusion = None  # the figure that stands there is another prompt's
            if steps[-1].finish is not None:
                view, contribution = progress.fusing(), progress.contribution_figure()
                progress.drawn = True
        return view, fusion, contribution, presets


def _ended(steps: Sequence[Step]) -> bool:
    """Whether the model itself has ended the text."""
    return bool(steps) and steps[-1].finish == "end"


def _fitting(earlier: Progress, count: int, progress: Progress) -> list[Step]:
    """The first steps of an earlier run over the lanes of this one, whose adapters may be others."""
    lanes = [each["name"] for each in progress.adapters]
    common = [
        (place, lanes.index(each["name"]))
        for place, each in enumerate(earlier.adapters)
        if each["name"] in lanes
    ]

    def over(step: Step) -> Step:
        whole = np.zeros((len(step.contribution), len(lanes)), step.contribution.dtype)  # [L, N]
        for old, new in common:
            whole[:, new] = step.contribution[:, old]
        return replace(step, contribution=whole)

    return [over(each) for each in earlier.steps[:count]]


def status_update(sentence: str, phase: str = "error") -> dict[str, object]:
    """A message that changes the status line and leaves the pictures."""
    return {"status": asdict(Status(phase, sentence))}


def empty_view(context: PageContext, prompt: str, sentence: str) -> dict[str, object]:
    """The live view with a prompt, no text yet and a sentence."""
    layers = context.runner.engine.model.layers
    run, status = secrets.token_hex(6), Status("idle", sentence)
    return message(run, prompt, (), context.legend(), layers, status, room=40)

"""Compare: from the controls to texts side by side, and from a column back to the controls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from functools import partial

import gradio as gr

from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.methods import METHODS
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.handlers.generating import CHEAP, RUN_BEGINS
from composer.ui.handlers.mixing import Mixing
from composer.ui.runners.base import Runner
from composer.ui.runners.throttle import throttled
from composer.ui.tabs.compare import COUNTS, CompareTab
from composer.ui.tabs.compose import ComposeTab, Controls, new_seed
from composer.ui.views.comparison import Comparison
from composer.ui.visitors import Visitor


class Comparing:
    """The handlers of the tab. `comparison` is the visitor's gr.State."""

    def __init__(self, context: PageContext, mixing: Mixing):
        self._context, self._mixing = context, mixing

    def connect(self, tabs: gr.Tabs, compose: ComposeTab, tab: CompareTab, model: dict[str, object]) -> None:
        """model: the concurrency of events that occupy the model."""
        self._nothing = [gr.skip()] * (1 + len(compose.restored))
        comparison = gr.State(None, time_to_live=3600)
        quiet = {"show_progress": "hidden", "api_visibility": "private", **model}
        inputs = [tab.prompt, tab.seed, tab.count, tab.methods, tab.others, *compose.controls.inputs]
        outputs = [tab.results, comparison, tab.stop]
        tab.tab.select(
            self.take_over,
            [compose.controls.prompt, compose.controls.sampling["seed"]],
            [tab.prompt, tab.seed],
            **CHEAP,
        )
        for button in (tab.compare, tab.again):
            button.click(None, None, [tab.stop, tab.results], js=RUN_BEGINS, **CHEAP)
        run = tab.compare.click(partial(self.compare, compose.controls), inputs, outputs, **quiet)
        drawn = tab.again.click(new_seed, None, tab.seed, **CHEAP)
        again = drawn.then(partial(self.compare, compose.controls), inputs, outputs, **quiet)
        tab.stop.click(self.stopped, comparison, [tab.results, tab.stop], cancels=[run, again], **CHEAP)
        inputs = [compose.controls.visitor, comparison]
        tab.results.select(self.use, inputs, [tabs, *compose.restored], **CHEAP)

    def take_over(self, prompt: str, seed: int) -> tuple[str, int]:
        """The prompt and the seed of Compose."""
        return prompt, seed

    async def compare(
        self,
        controls: Controls,
        prompt: str,
        seed: int,
        count: int,
        methods: Sequence[str],
        others: Sequence[str],
        *values,
    ) -> AsyncIterator[tuple]:
        """Yields (results, comparison, Stop button)."""
        skip, context = gr.skip(), self._context
        off = gr.update(interactive=False)
        try:
            comparison = self._comparison(controls, prompt, seed, count, [*methods, *others], values)
            busy, began = partial(comparison.message, busy=True), time.monotonic()
            yield busy("Reading the prompt…"), comparison, gr.update(interactive=True)
            items = context.runner.run_many(comparison.requests, context.names(comparison.added))
            async with aclosing(
                throttled(without_none(items), context.settings.updates_per_second)
            ) as groups:
                async for group in groups:
                    for index, news in group:
                        comparison.add(index, news if isinstance(news, Step) else error_message(news))
                    if group:
                        yield busy("Writing…"), skip, skip
            seconds = time.monotonic() - began
            yield busy("Reading the texts under the base…"), skip, skip
            comparison.score(await asyncio.to_thread(context.runner.perplexities, comparison.finished_texts))
            async for _ in choose_texts(context.runner, comparison):
                yield busy("Asking the adapters which text is likeliest…"), comparison, skip
            yield comparison.message(summary(comparison, seconds)), comparison, off
        except Exception as fault:
            yield {"columns": [], "message": error_message(fault), "error": True}, None, off

    def _comparison(
        self, controls: Controls, prompt: str, seed: int, count: int, methods: Sequence[str], values: tuple
    ) -> Comparison:
        context = self._context
        request = context.request({**controls.read(values), "prompt": prompt})
        if not set(methods) <= set(METHODS):
            raise ComposerError("Tick methods of the list.")
        if count not in [number for _, number in COUNTS]:
            raise ComposerError("Choose how many texts from the list.")
        request = replace(request, sampling=replace(request.sampling, seed=seed))
        legend = context.by_name(request.added)
        return Comparison.of(request, methods, count, context.meters.judges, legend)

    async def stopped(self, comparison: Comparison | None) -> tuple:
        """What there is after Stop."""
        off = gr.update(interactive=False)
        if comparison is None:
            return {"columns": [], "message": "Stopped."}, off
        return comparison.message("Stopped."), off

    def use(self, visitor: Visitor, comparison: Comparison | None, event: gr.EventData) -> list:
        """Load a column into Compose. Returns the tab to show and ComposeTab.restored."""
        place = (event._data or {}).get("index")
        if comparison is None or not isinstance(place, int) or not 0 <= place < len(comparison.columns):
            return self._nothing
        composition = comparison.columns[place].composition
        sampling = replace(comparison.sampling, seed=comparison.seed_of(place))
        return [
            gr.update(selected="compose"),
            *self._mixing.restore(visitor, comparison.prompt, composition, sampling),
        ]


def summary(comparison: Comparison, seconds: float) -> str:
    """What was written, and how to read its marks."""
    columns, texts = len(comparison.columns), len(comparison.requests)
    seeds = f"seed {comparison.seeds[0]}" if len(comparison.seeds) == 1 else f"{len(comparison.seeds)} seeds"
    chosen = (
        " Likeliest: of a mix's texts the one that its own adapters find likeliest, if it reads well."
        if any(own.likeliest is not None for own in comparison.own)
        else ""
    )
    return (
        f"{columns} columns in one batch, {seeds}, {texts} texts in {seconds:.1f} s. "
        f"Framed: every judge finds what was asked for, at the lowest perplexity.{chosen}"
    )


async def choose_texts(runner: Runner, comparison: Comparison) -> AsyncIterator[None]:
    """Of each mix with several texts, have its adapters choose one; yields before each.

    A column that failed, or whose adapters are gone by now, keeps its first text.
    """
    for place in comparison.mixes if len(comparison.seeds) > 1 else ():
        own, request = comparison.own[place], comparison.column_request(place)
        if own.fault:
            continue
        yield
        with suppress(ComposerError, gr.Error):
            comparison.choose(place, await asyncio.to_thread(runner.choice_scores, request, own.texts))


def without_none(items):
    """(index, news) pairs, and None where there is none, as `throttled` takes them."""
    with closing(items):
        for index, news in items:
            yield None if news is None else (index, news)

"""Dose: from the controls to a sweep over one weight or two, written while others' texts come first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import fields, replace
from functools import partial

import gradio as gr

from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.evaluation.dose.sweep import Axis, Dose, DosePlan, make_deciders
from composer.evaluation.prompts import load_prompts
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.handlers.comparing import without_none
from composer.ui.handlers.generating import CHEAP, RUN_BEGINS
from composer.ui.runners.throttle import throttled
from composer.ui.tabs.compose import ComposeTab, Controls
from composer.ui.tabs.dose import COUNTS, MOST_OWN, NOTHING, OWN, POINTS, PROMPTS, DoseForm, DoseTab
from composer.ui.validation import Request, check_prompt
from composer.ui.views import dose as dose_view
from composer.ui.visitors import Visitor

# Tokens of a text, and texts of a sweep: more would keep a visitor waiting for minutes.
LONGEST, MOST_TEXTS = 40, 400
UPDATES = 2.0  # a second
# How many of a sweep's values come before those of the controls.
ASKED = len(fields(DoseForm))
# Weights of each of two adapters: every pair of them is written.
MOST_SQUARED = 7


class Dosing:
    """The handlers of the tab. `dose` is the visitor's gr.State."""

    def __init__(self, context: PageContext):
        self._context = context
        self._deciders = make_deciders(context.meters.judges)

    def connect(self, compose: ComposeTab, tab: DoseTab, model: dict[str, object]) -> None:
        """model: the concurrency of events that occupy the model."""
        dose, controls = gr.State(None, time_to_live=3600), compose.controls
        quiet = {"show_progress": "hidden", "api_visibility": "private", **model}
        tab.tab.select(
            partial(self.offer, controls), [tab.first, *controls.inputs], [tab.first, tab.second], **CHEAP
        )
        ends = [tab.second_low, tab.second_high]
        tab.second.input(lambda name: [gr.update(visible=bool(name))] * 2, tab.second, ends, **CHEAP)
        tab.prompts.input(lambda count: gr.update(visible=count == OWN), tab.prompts, tab.own, **CHEAP)
        tab.sweep.click(None, None, [tab.stop, tab.results], js=RUN_BEGINS, **CHEAP)
        run = tab.sweep.click(
            partial(self.sweep, controls),
            [*tab.inputs, *controls.inputs],
            [tab.results, dose, tab.stop],
            **quiet,
        )
        shown = [tab.results, tab.stop]
        tab.stop.click(self.stopped, [controls.visitor, dose], shown, cancels=[run], **CHEAP)

    @property
    def choices(self) -> list[tuple[str, str]]:
        """The catalog's adapters as a dropdown offers them."""
        return [(each["label"], each["name"]) for each in self._context.legend()]

    def offer(self, controls: Controls, chosen: str | None, *values) -> tuple:
        """Updates of both lists of adapters: the visitor's own too, and first the strongest of the mix."""
        visitor: Visitor = controls.read(values)["visitor"]
        offered = [*self.choices, *((own.shown["label"], own.name) for own in visitor.own)]
        names = [name for _, name in offered]
        if chosen not in names:
            try:
                weights = self._context.request(controls.read(values)).composition.weights
            except ComposerError:
                weights = {}
            chosen = max(weights, key=lambda name: weights[name], default=None) or names[0]
        return gr.update(choices=offered, value=chosen), gr.update(choices=[NOTHING[::-1], *offered])

    async def sweep(self, controls: Controls, *values) -> AsyncIterator[tuple]:
        """Yields (results, dose, Stop button)."""
        skip, context, off = gr.skip(), self._context, gr.update(interactive=False)
        try:
            form, read = DoseForm(*values[:ASKED]), controls.read(values[ASKED:])
            request, visitor = context.request(read), read["visitor"]
            dose = self._dose(request, form)
            legend, began = self._legend(visitor), time.monotonic()
            yield dose_view.view(dose, legend, 0, "Reading the prompts"), dose, gr.update(interactive=True)
            async for _ in self.written(dose, request, visitor):
                if dose.stopped:
                    return  # the last picture is on its way: nothing may follow it
                yield dose_view.view(dose, legend, time.monotonic() - began, "Writing"), skip, skip
            yield dose_view.view(dose, legend, time.monotonic() - began), skip, off
        except Exception as fault:
            yield dose_view.fault(error_message(fault)), None, off

    async def written(self, dose: Dose, request: Request, visitor: Visitor) -> AsyncIterator[None]:
        """Write the texts of a sweep and take them in; yields whenever some have come."""
        requests, names = self._requests(dose, request, visitor)
        items = self._context.runner.run_many(requests, names, background=True)
        async with aclosing(throttled(without_none(items), UPDATES)) as groups:
            async for group in groups:
                for index, news in group:
                    await self._take(dose, index, news)
                if group:
                    yield

    def checked(self, plan: DosePlan) -> Dose:
        """The sweep of a plan. Raises ComposerError for one that takes too long here."""
        if len(plan.tasks) > MOST_TEXTS:
            raise ComposerError(
                f"That makes {len(plan.tasks)} texts and at most {MOST_TEXTS} are written here; choose fewer "
                "weights, prompts or texts, or run python -m composer dose."
            )
        return Dose(plan, self._deciders)

    async def stopped(self, visitor: Visitor, dose: Dose | None) -> tuple:
        """What there is after Stop."""
        off = gr.update(interactive=False)
        if dose is None or not dose.texts:
            return dose_view.fault("Stopped before the first text."), off
        dose.stopped = True
        return dose_view.view(dose, self._legend(visitor), 0), off

    async def _take(self, dose: Dose, index: int, news: Step | Exception) -> None:
        """A finished text with its perplexity, or what ended it; nothing while it is being written."""
        if isinstance(news, Exception):
            dose.faults.append(error_message(news))
        elif news.finish is not None:
            prompt = dose.plan.tasks[index].prompt
            scores = await asyncio.to_thread(self._context.runner.perplexities, [(prompt, news.text)])
            dose.add(index, news.text, scores[0])

    def _dose(self, request: Request, form: DoseForm) -> Dose:
        """The sweep that the form asks for. Raises ComposerError."""
        counts = [number for number, _ in COUNTS]
        if form.points not in POINTS or form.count not in counts:
            raise ComposerError("Choose weights, prompts and texts from the lists.")
        if not form.first:
            raise ComposerError("Choose an adapter to sweep.")
        points = min(int(form.points), MOST_SQUARED) if form.second else int(form.points)
        axes = [Axis.between(str(form.first), form.low, form.high, points)]
        if form.second:
            axes.append(Axis.between(str(form.second), form.second_low, form.second_high, points))
        seeds = tuple(request.sampling.seed + place for place in range(int(form.count)))
        return self.checked(DosePlan(request.composition, tuple(axes), self._prompts(request, form), seeds))

    def _prompts(self, request: Request, form: DoseForm) -> tuple[str, ...]:
        if form.prompts == OWN:
            lines = dict.fromkeys(line.strip() for line in str(form.own or "").splitlines() if line.strip())
            if not 0 < len(lines) <= MOST_OWN:
                raise ComposerError(f"Write 1 to {MOST_OWN} prompts, one a line.")
            return tuple(check_prompt(line, self._context.settings.max_prompt_chars) for line in lines)
        if form.prompts not in [number for _, number in PROMPTS]:
            raise ComposerError("Choose weights, prompts and texts from the lists.")
        if form.prompts == 0:
            return (request.prompt,)
        written, count = load_prompts(), int(form.prompts)
        return written[:: len(written) // count][:count]

    def _requests(
        self, dose: Dose, request: Request, visitor: Visitor
    ) -> tuple[list[Request], tuple[str, ...]]:
        """A request for each task, and the adapters there are for the visitor."""
        swept = [axis.adapter for axis in dose.plan.axes]
        own = visitor.using([*swept, *(each.name for each in request.added)])
        known = self._context.names(own)
        for name in swept:
            if name not in known:
                raise ComposerError("An adapter to sweep is not here; choose another one from the list.")
        sampling = replace(request.sampling, max_new_tokens=min(request.sampling.max_new_tokens, LONGEST))
        plan = dose.plan
        seeded = {seed: replace(sampling, seed=seed % 2**32) for seed in plan.seeds}
        requests = [
            Request(
                task.prompt,
                plan.composition_at(task.point),
                seeded[task.seed],
                added=own,
                usage=request.usage,
            )
            for task in plan.tasks
        ]
        return requests, known

    def _legend(self, visitor: Visitor) -> dict[str, dict[str, str]]:
        return self._context.by_name(visitor.own)

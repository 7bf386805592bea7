"""The page: lays the tabs out and connects their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from functools import partial

import gradio as gr

from composer.core.catalog_types import BaseSpec, Example
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.engine.engine import Engine
from composer.engine.resolve import lane_names
from composer.engine.scheduler import QueueUpdate
from composer.methods import METHODS
from composer.ui import study_results as studied
from composer.ui.api import make_endpoints
from composer.ui.components import contribution_map as live
from composer.ui.components import next_words
from composer.ui.components.contribution_map import Status
from composer.ui.components.weight_sliders import (
    WeightSlider,
    is_shown,
    make_pool,
    needs_per_adapter,
    to_values,
    to_weights,
)
from composer.ui.error_messages import error_message
from composer.ui.generation_view import Progress
from composer.ui.runners.base import MergeStarted, Runner
from composer.ui.runners.throttle import throttled
from composer.ui.settings import Settings
from composer.ui.tabs import adapters as adapters_page
from composer.ui.tabs import build_extra_tabs, compose, learn
from composer.ui.validation import Request, check_method, check_source, make_request

HEADER = """<header class="masthead"><div><h1>{{value.title}}</h1><p>{{value.line}}</p></div>
<p class="base"><b>{{value.base}}</b> {{value.facts}}</p></header>"""
SOURCES = {
    "folder": "from a local folder",
    "cache": "from the Hub cache",
    "wheel": "from its wheel",
    "hub": "from the Hub",
}
# Events beside the generations: adapters, fusions, sliders, and requests that find the queue full.
OTHERS = 16
CHEAP = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
# Next words: as many at once as a queue's worth of visitors asks for; the engine reads them one by one.
PREVIEW = {
    "concurrency_id": "preview",
    "concurrency_limit": 8,
    "api_visibility": "private",
    "show_progress": "hidden",
}
# In the browser, before the server answers: Stop can be pressed, and the status line says what is awaited.
ON_CLICK = """() => [{__type__: "update", interactive: true},
  {status: {phase: "reading", message: "Waiting for the model…"}}]"""


class Page:
    """The handlers of one page over one engine; what belongs to a visitor travels in gr.State."""

    def __init__(self, runner: Runner, settings: Settings):
        self.runner = runner
        self.settings = settings
        self.slots: tuple[WeightSlider, ...] = make_pool(
            runner.engine.snapshot.adapters, runner.engine.attributes, settings.max_added
        )
        self.examples: tuple[Example, ...] = tuple(
            each for each in runner.engine.catalog.examples if set(each.weights) <= set(runner.engine.names)
        )
        self.default_composition: Composition = runner.engine.base.spec.default_composition
        for method in {
            self.default_composition.method,
            *(each.method for each in self.examples if each.method),
        }:
            check_method(method)

    def blocks(self) -> gr.Blocks:
        """The gradio app, not yet started."""
        engine = self.runner.engine
        with gr.Blocks(title="Adapter Composer", analytics_enabled=False) as blocks:
            gr.HTML(header(engine), html_template=HEADER, elem_id="header")
            progress = gr.State(None, time_to_live=3600)
            with gr.Tabs():
                with gr.Tab("Compose"):
                    unavailable = adapters_page.unavailable(engine.reports, engine.names)
                    tab = compose.build(
                        self.slots,
                        self.examples,
                        unavailable,
                        self.opening_view(),
                        self.default_composition,
                        studied.follows_prompt(engine.base.id),
                        self.settings,
                    )
                with gr.Tab("Adapters"):
                    adapters_tab = adapters_page.build(self.cards(), self.settings)
                with gr.Tab("How it works"):
                    learn.build(studied.standings(engine.base.id))
                build_extra_tabs(self.runner, self.settings)
            self._connect_run(tab, progress)
            self._connect_sliders(tab)
            self._connect_adapters(blocks, tab, adapters_tab)
            generate, fuse = make_endpoints(self.runner, self.settings)
            gr.api(generate, api_name="generate", **self._generations)
            gr.api(fuse, api_name="fuse", concurrency_id="fuse", concurrency_limit=1)
        # Where the runner has people wait, all must come through to it: Gradio's queue tells them nothing.
        return blocks.queue(max_size=self.events if self.runner.limit is None else self.settings.queue_size)

    @property
    def events(self) -> int:
        """How many events may be under way. A text's place is free while its visitor waits for figures."""
        return 2 * self.settings.slots + self.settings.queue_size + OTHERS

    @property
    def _generations(self) -> dict[str, object]:
        return {"concurrency_id": "model", "concurrency_limit": self.runner.limit}

    # --- generating ----------------------------------------------------------------------------

    def _connect_run(self, tab: compose.ComposeTab, progress: gr.State) -> None:
        tab.generate.click(None, None, [tab.stop, tab.live], js=ON_CLICK, **CHEAP)
        run = tab.generate.click(
            partial(self.generate, tab.controls),
            tab.controls.inputs,
            [tab.live, tab.fusion, tab.contribution, progress, tab.stop],
            show_progress="hidden",
            api_visibility="private",
            **self._generations,
        )
        tab.stop.click(
            self.stopped, [progress], [tab.live, tab.contribution, progress, tab.stop], cancels=[run], **CHEAP
        )
        gr.on(
            tab.controls.preview_triggers,
            partial(self.preview, tab.controls),
            tab.controls.inputs,
            tab.next_words,
            trigger_mode="always_last",
            **PREVIEW,
        )
        tab.dice.click(compose.new_seed, None, tab.controls.sampling["seed"], **CHEAP)

    async def generate(self, controls: compose.Controls, *values) -> AsyncIterator[tuple]:
        """Yields (live view, fusion figure, contribution figure, progress, Stop button)."""
        skip = gr.skip()
        off = gr.update(interactive=False)
        engine = self.runner.engine
        try:
            request = self._request(controls.read(values))
            progress = Progress(request, engine.names, self.lanes(request.composition), engine.model.layers)
            yield progress.reading(), skip, skip, progress, gr.update(interactive=True)
            items = self.runner.run(request, progress.names)
            async with aclosing(throttled(items, self.settings.updates_per_second)) as groups:
                async for group in groups:
                    if progress.stopped:
                        return  # the last picture is on its way: nothing may follow it
                    yield *self._tell(progress, group), skip, skip
            contribution = skip if progress.drawn else progress.contribution_figure()
            yield progress.finished(), skip, contribution, None, off
        except Exception as fault:  # the last place that can tell the visitor anything
            yield status_update(error_message(fault)), skip, skip, None, off

    async def preview(self, controls: compose.Controls, *values) -> dict[str, object]:
        """The panel of next words for what the controls say now."""
        try:
            read = controls.read(values)
            if not str(read["prompt"] or "").strip():
                return next_words.message(next_words.EMPTY)
            request = self._request(read)
            found = await asyncio.to_thread(self.runner.next_tokens, request.prompt, request.composition)
            return next_words.view(
                found, {each["name"]: each for each in self.legend()}, request.composition.weights
            )
        except Exception as fault:
            return next_words.message(error_message(fault))

    def _request(self, read: dict) -> Request:
        """The request of the controls' values, as Controls.read gives them."""
        per_adapter, sliders = read.pop("per_adapter"), read.pop("sliders")
        weights = to_weights(self.slots, sliders, per_adapter, self.runner.added)
        return make_request(weights=weights, settings=self.settings, **read)

    def _tell(self, progress: Progress, group: Sequence[Fusion | Step | QueueUpdate | MergeStarted]) -> tuple:
        """Live view, fusion figure and contribution figure after a burst."""
        view = fusion = contribution = gr.skip()
        for event in group:
            if isinstance(event, QueueUpdate):
                view = progress.waiting(event.position, self.settings.slots)
            elif isinstance(event, MergeStarted):
                view = progress.making()
            elif isinstance(event, Fusion):
                fusion, progress.fused = progress.fusion_figure(event), True
        if steps := [event for event in group if isinstance(event, Step)]:
            begins = not progress.steps
            view = progress.writing(steps)
            if begins and not progress.fused:
                fusion = None  # the figure that stands there is another prompt's
            if steps[-1].finish is not None and not progress.fused:
                view, contribution = progress.fusing(), progress.contribution_figure()
                progress.drawn = True
        return view, fusion, contribution

    async def stopped(self, progress: Progress | None) -> tuple:
        """The final view after Stop. Runs in the event loop, so never inside a burst."""
        off = gr.update(interactive=False)
        if progress is None:
            return status_update("Stopped before the model began.", "stopped"), gr.skip(), None, off
        progress.stopped = True
        return progress.finished(), progress.contribution_figure(), None, off

    # --- sliders -------------------------------------------------------------------------------

    def _connect_sliders(self, tab: compose.ComposeTab) -> None:
        controls = tab.controls
        weights = list(controls.weights)
        parameters = [tab.method_help, *controls.parameters.values(), tab.more]
        shape = [controls.strength, *controls.bands]
        controls.method.input(compose.parameter_updates, controls.method, parameters, **CHEAP)
        controls.per_adapter.input(self.switch, [controls.per_adapter, *weights], weights, **CHEAP)
        tab.zero.click(lambda: [0.0] * len(weights), None, weights, **CHEAP)
        for button, example in zip(tab.examples, self.examples, strict=True):
            loaded = button.click(
                partial(self.load_example, example),
                None,
                [
                    tab.live,
                    controls.prompt,
                    controls.method,
                    *parameters,
                    *shape,
                    controls.per_adapter,
                    *weights,
                ],
                **CHEAP,
            )
            loaded.then(partial(self.preview, controls), controls.inputs, tab.next_words, **PREVIEW)

    def switch(self, per_adapter: bool, *values) -> list:
        """Slider updates when the visitor changes between two-way sliders and one per adapter."""
        weights = to_weights(self.slots, values, not per_adapter, self.runner.added)
        return self._show(to_values(self.slots, weights, self.runner.added), per_adapter)

    def load_example(self, example: Example) -> list:
        """Updates of the status line, prompt, method, all parameters, the switch and every slider.

        Everything that the visitor may have moved returns to its initial value, so that the example's note is
        true.
        """
        per_adapter = needs_per_adapter(self.slots, example.weights)
        sliders = self._show(to_values(self.slots, example.weights, self.runner.added), per_adapter)
        note, method = status_update(example.note, "idle"), example.method or self.default_composition.method
        parameters = compose.parameter_updates(method, self.default_composition)
        shape = (self.default_composition.strength, *self.default_composition.bands)
        return [note, example.prompt, method, *parameters, *shape, per_adapter, *sliders]

    def _show(self, values: list[float], per_adapter: bool) -> list:
        added = len(self.runner.added)
        return [
            gr.update(value=value, visible=is_shown(slot, per_adapter, added))
            for slot, value in zip(self.slots, values, strict=True)
        ]

    # --- adapters ------------------------------------------------------------------------------

    def _connect_adapters(
        self, blocks: gr.Blocks, tab: compose.ComposeTab, adapters_tab: adapters_page.AdaptersTab
    ) -> None:
        spare_sliders = [
            slider
            for slot, slider in zip(self.slots, tab.controls.weights, strict=True)
            if slot.spare is not None
        ]
        blocks.load(self.refresh, None, [adapters_tab.cards, *spare_sliders], **CHEAP)
        gr.on(
            [adapters_tab.add.click, adapters_tab.source.submit],
            self.add,
            adapters_tab.source,
            [adapters_tab.report, adapters_tab.cards, *spare_sliders],
            concurrency_id="adapters",
            concurrency_limit=1,
            api_visibility="private",
        )

    def refresh(self) -> list:
        """Cards and spare sliders as they are now: another visitor may have added an adapter."""
        added = self.runner.added
        spare_slots = [slot for slot in self.slots if slot.spare is not None]
        return [
            self.cards(),
            *(
                gr.update(visible=True, label=added[slot.spare]) if slot.spare < len(added) else gr.skip()
                for slot in spare_slots
            ),
        ]

    def add(self, source: str) -> list:
        """Check and load one more adapter; updates of the report, the cards and the spare sliders."""
        try:
            if len(self.runner.added) >= self.settings.max_added:
                raise ComposerError("No slider is free; list the adapter in adapters.yaml and start again.")
            report, words = self.runner.add(check_source(source, self.settings.folders)), ""
        except Exception as fault:
            report, words = None, error_message(fault)
        shown = gr.update(value=adapters_page.report_value(report, words), visible=True)
        return [shown, *self.refresh()]

    def opening_view(self) -> dict[str, object]:
        """The live view before the first generation: the loaded adapters."""
        status = Status(message="Ready. Press Generate or Ctrl+Enter.")
        return {
            "adapters": self.legend(),
            "layers": self.runner.engine.model.layers,
            "status": asdict(status),
        }

    def lanes(self, composition: Composition) -> list[dict[str, str]]:
        """The legend of a run: every adapter, and after them the merged one if the method makes one."""
        names = self.runner.engine.names
        if made := lane_names(composition, names)[len(names) :]:
            return [*self.legend(), live.merged(METHODS[composition.method], made[0])]
        return self.legend()

    def legend(self) -> list[dict[str, str]]:
        """Label and colour of every loaded adapter, in the order of every N axis."""
        return live.legend(self.runner.engine.snapshot.adapters, self.runner.catalog_names)

    def cards(self) -> list[dict[str, str]]:
        """What the tab of adapters shows now."""
        engine = self.runner.engine
        colors = {each["name"]: each["color"] for each in self.legend()}
        return adapters_page.cards(
            engine.snapshot.adapters, colors, {report.name: report for report in engine.reports if report.ok}
        )


def status_update(sentence: str, phase: str = "error") -> dict[str, object]:
    """A message that changes the status line and leaves the pictures."""
    return {"status": asdict(Status(phase, sentence))}


def header(engine: Engine) -> dict[str, str]:
    """Title, one line about the page, the base and where its weights came from."""
    base: BaseSpec = engine.base.spec
    facts = [f"{engine.model.layers} layers", SOURCES[engine.base.source]]
    if base.quantization != "none":
        facts.insert(1, base.quantization)
    return {
        "title": "Adapter Composer",
        "line": "Mix small adapters into one language model and watch what each does in every layer.",
        "base": base.label or base.id,
        "facts": " · ".join(facts),
    }

"""The page: lays the tabs out and connects their events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import gradio as gr

from composer.core.catalog_types import BaseSpec
from composer.core.composition import Sampling
from composer.engine.engine import Engine
from composer.ui.api import make_endpoints
from composer.ui.bases.menu import BaseMenu
from composer.ui.bases.offers import label_of
from composer.ui.components import next_words, share, template
from composer.ui.components.contribution_map import Status
from composer.ui.context import PageContext
from composer.ui.handlers.adding import Adding
from composer.ui.handlers.choosing import Choosing
from composer.ui.handlers.comparing import Comparing
from composer.ui.handlers.dosing import Dosing
from composer.ui.handlers.explaining import Explaining
from composer.ui.handlers.exporting import Exporting
from composer.ui.handlers.generating import Generating
from composer.ui.handlers.learning import Learner, Learning
from composer.ui.handlers.mixing import Mixing, recorded_progress
from composer.ui.handlers.previewing import Latest, Previewing
from composer.ui.handlers.sharing import TABS, Sharing
from composer.ui.runners.base import Runner
from composer.ui.settings import Settings
from composer.ui.tabs import adapters as adapters_page
from composer.ui.tabs import build_extra_tabs, compare, compose, conflict, dose, learn
from composer.ui.tabs.compose import Opening
from composer.ui.views import study_results as studied
from composer.ui.visitors import Visitor

SOURCES = {
    "folder": "from a local folder",
    "cache": "from the Hub cache",
    "wheel": "from its wheel",
    "hub": "from the Hub",
}
# Seconds for which a file that somebody exported can be downloaded.
KEPT = 3600
READY = "Ready. Press Generate or Ctrl+Enter."
UNRECORDED = "There is no recording of this base yet: press Generate or Ctrl+Enter."
# Endpoints that write texts, and the concurrency of the others.
LONG = ("generate", "compare", "dose", "explain", "export")
SHORT = {"concurrency_id": "calls", "concurrency_limit": 4}
# Visitors whose state is kept; the state of one who has left goes first.
SESSIONS = 200
# Events beside the generations: adapters, fusions, sliders, and requests that find the queue full.
OTHERS = 16


class Page:
    """The page over one engine; what belongs to a visitor travels in gr.State.

    menu: the bases that a visitor may choose from; None: the page's own alone.
    """

    def __init__(self, runner: Runner, settings: Settings, menu: BaseMenu | None = None):
        self.runner = runner
        self.menu = menu
        self.settings = settings
        self.context = PageContext(runner, settings)
        self.previewing = Previewing(self.context)
        self.generating = Generating(self.context, self.previewing)
        self.mixing = Mixing(self.context, self.previewing)
        self.adding = Adding(self.context, self.mixing, self.previewing)
        self.comparing = Comparing(self.context, self.mixing)
        self.explaining = Explaining(self.context)
        self.dosing = Dosing(self.context)
        self.exporting = Exporting(self.context)
        self.learning = Learning(self.context, self.mixing, self.previewing)
        self.sharing = Sharing(self.context, self.mixing, menu)

    def blocks(self) -> gr.Blocks:
        """The gradio app, not yet started."""
        engine, context = self.runner.engine, self.context
        opening = self.opening()
        kept = (KEPT, KEPT)
        with gr.Blocks(title="Adapter Composer", analytics_enabled=False, delete_cache=kept) as blocks:
            # Gradio has no more events under way, whatever their kind.
            blocks.max_threads, blocks.state_session_capacity = self.events, SESSIONS
            shown = header(engine, context.legend(), self.menu, self._opening_recording is not None)
            head = template.component("header", {}, "header", page=shown)
            card = share.build()
            visitor = gr.State(Visitor(), delete_callback=self._left)
            progress = gr.State(None, time_to_live=3600)
            latest, chosen = gr.State(Latest()), gr.State("compose")
            with gr.Tabs(selected="compose", elem_id="tabs") as tabs:
                with gr.Tab("Compose", id="compose") as compose_tab:
                    tab = compose.build(
                        context.slots,
                        context.examples,
                        adapters_page.unavailable(engine.reports, engine.names),
                        opening,
                        self.settings,
                        engine.model.layers,
                        visitor,
                    )
                with gr.Tab("Compare", id="compare") as compare_tab:
                    compared = compare.build(
                        compare_tab, opening.prompt, opening.sampling.seed, self.settings
                    )
                with gr.Tab("Conflict", id="conflict") as conflict_tab:
                    measured = conflict.build()
                with gr.Tab("Dose", id="dose") as dose_tab:
                    swept = dose.build(dose_tab, self.dosing.choices)
                with gr.Tab("Adapters", id="adapters"):
                    base = label_of(engine.base.spec)
                    adapters_tab = adapters_page.build(self.adding.cards(Visitor()), base, self.settings)
                with gr.Tab("Learn", id="learn"):
                    follows, standings = (
                        found(engine.base.id, engine.base.spec.quantization) if context.is_default else ""
                        for found in (studied.follows_prompt, studied.standings)
                    )
                    lessons = learn.build(self.learning.cards(Learner()), follows, standings)
                build_extra_tabs(self.runner, self.settings)
            tabs_of_links = (compose_tab, compare_tab, conflict_tab, dose_tab)
            for each, name in zip(tabs_of_links, TABS, strict=True):
                each.select(lambda name=name: name, None, chosen, queue=False, api_visibility="private")
            model = self._model
            running = self.generating.connect(tab, progress, latest, model)
            self.previewing.connect(tab, latest)
            self.mixing.connect(tab, progress, latest, running)
            returned = self.adding.connect(blocks, tabs, tab, adapters_tab, latest)
            self.comparing.connect(tabs, tab, compared, model)
            self.explaining.connect(tab, measured, progress, model)
            self.dosing.connect(tab, swept, model)
            self.learning.connect(tabs, tab, lessons, progress, latest, running)
            self.sharing.connect(returned, tabs, chosen, tab, card)
            self.exporting.connect(tab, card, progress, model)
            if self.menu is not None:
                Choosing(context, self.menu, tab.controls).connect(blocks, head, chosen)
            # So that Step and Back go on from the recording.
            blocks.load(self._opening_progress, None, progress, queue=False, api_visibility="private")
            for name, each in make_endpoints(self.context, self.dosing).items():
                gr.api(each, api_name=name, **(model if name in LONG else SHORT))
        _report_progress_to(blocks, tab.stop)
        # Where the runner has people wait, all must come through to it: Gradio's queue tells them nothing.
        return blocks.queue(max_size=self.events if self.runner.limit is None else self.settings.queue_size)

    def _left(self, visitor: Visitor) -> None:
        visitor.leave(self.runner.added)

    @property
    def events(self) -> int:
        """How many events may be under way. A text's place is free while its visitor waits for figures."""
        return 2 * self.settings.slots + self.settings.queue_size + OTHERS

    @property
    def _model(self) -> dict[str, object]:
        """The concurrency of events that occupy the model."""
        return {"concurrency_id": "model", "concurrency_limit": self.runner.limit}

    @property
    def _opening_recording(self):
        return next(iter(self.context.recordings), None)

    def _opening_progress(self):
        recording = self._opening_recording
        return None if recording is None else recorded_progress(self.context, recording)

    def opening(self) -> Opening:
        """How the page opens: on the first preset's recording, or empty where there is none."""
        context, recording = self.context, self._opening_recording
        if recording is None:
            status = Status(message=READY if context.is_default else UNRECORDED)
            live = {
                "adapters": context.legend(),
                "layers": self.runner.engine.model.layers,
                "status": asdict(status),
            }
            return Opening(
                live, next_words.message(next_words.EMPTY), context.default_composition, Sampling()
            )
        request = recording.request
        live, words, fusion, contribution, progress = self.mixing.recorded(
            recording, context.examples[0].note
        )
        return Opening(
            live,
            words,
            request.composition,
            request.sampling,
            request.prompt,
            fusion,
            contribution,
            progress.shared(recording.fusion),
        )


def _report_progress_to(blocks: gr.Blocks, component: gr.Button) -> None:
    """Have Gradio tell one small component how far each event is.

    With every message of an event the browser tells all components that some event may change, and first
    copies their properties and their children's: 2,100 values a token while a text is written. None of them
    shows that progress; the page has sentences of its own.
    """
    for event in blocks.fns.values():
        event.show_progress_on = [component]


def header(
    engine: Engine, legend: list[Mapping[str, str]], menu: BaseMenu | None, recorded: bool
) -> dict[str, object]:
    """The base, where its weights came from, its notice, three adapters' colours, and where the menu finds
    the other bases. recorded: whether the page opens on a recording."""
    base: BaseSpec = engine.base.spec
    facts = [f"{engine.model.layers} layers", SOURCES[engine.base.source]]
    if base.quantization != "none":
        facts.insert(1, base.quantization)
    notice = base.notice
    return {
        "base": label_of(base),
        "facts": " · ".join(facts),
        "notice": asdict(notice) if notice else None,
        "colors": [*(each["color"] for each in legend), *["#888888"] * 3][:3],
        "name": base.name,
        "root": menu.root if menu else None,
        "recorded": recorded,
    }

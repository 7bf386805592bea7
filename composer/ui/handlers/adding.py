"""Adapters: finding one, bringing it, hearing one alone, giving one's own up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from queue import Empty, SimpleQueue

import gradio as gr

from composer.adapters.hub import Fetch, read_card, search
from composer.adapters.model_card import ModelCard
from composer.core.catalog_types import FitReport
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.threads import run_in_short_lived_thread
from composer.engine.added_adapters import AddedAdapter
from composer.engine.scheduler import POLL
from composer.ui.components import curves
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.handlers.generating import CHEAP
from composer.ui.handlers.mixing import Mixing
from composer.ui.handlers.previewing import Previewing
from composer.ui.runners.throttle import throttled
from composer.ui.tabs import adapters as adapters_page
from composer.ui.tabs.compose import ComposeTab
from composer.ui.validation import check_source, read_source
from composer.ui.visitors import Visitor

# In the browser, for whoever comes back.
STORED = "adapter-composer-added"
# So that what is stored can still be read after the server has started anew. Nothing in it is secret.
SECRET = "adapter-composer"
# The prompt of an adapter that is heard alone where the visitor has none.
NEUTRAL = "Once upon a time"
GENERATE = """() => { document.querySelector("button#generate").click(); }"""
# What the check of an adapter found: source, commit, fit report and card.
Checked = tuple[str, str | None, FitReport, ModelCard]
Done = tuple[FitReport, AddedAdapter | None]


class Adding:
    """The handlers of the tab of adapters. `visitor` is the visitor's gr.State, `checked` another one."""

    def __init__(self, context: PageContext, mixing: Mixing, previewing: Previewing):
        self._context, self._mixing, self._previewing = context, mixing, previewing
        engine = context.runner.engine
        self._base = engine.base.spec.label or engine.base.id
        reports = {report.name: report for report in engine.reports if report.ok}
        self._catalog_cards = [
            adapters_page.card(
                entry, spec.description, self._base, reports.get(spec.name), read_card(spec.source), own=False
            )
            for spec, entry in zip(context.adapters, context.legend(), strict=True)
        ]

    def connect(
        self,
        blocks: gr.Blocks,
        tabs: gr.Tabs,
        compose: ComposeTab,
        tab: adapters_page.AdaptersTab,
        latest: gr.State,
    ) -> gr.events.Dependency:
        """Connect the tab's events, and what the browser remembers. Returns the event after which the visitor
        has what they had."""
        visitor, checked = compose.controls.visitor, gr.State(None, time_to_live=3600)
        # A browser has one store for all pages of a server, and adapters fit one base.
        base = self._context.runner.engine.base.spec.name
        key = STORED if self._context.is_default else f"{STORED}-{base}"
        stored = gr.BrowserState([], storage_key=key, secret=SECRET)
        slots = [
            slider
            for slot, slider in zip(self._context.slots, compose.controls.weights, strict=True)
            if slot.spare is not None
        ]
        shown = [visitor, stored, tab.cards, compose.controls.curves, *slots]
        busy = {
            "concurrency_id": "adapters",
            "concurrency_limit": 4,
            "api_visibility": "private",
            "show_progress": "hidden",
        }
        gr.on([tab.find.click, tab.source.submit], self.find, tab.source, [tab.finder, checked], **busy)
        tab.finder.select(self.check, None, [tab.finder, checked], **busy)
        tab.finder.apply(self.add, [checked, visitor], [tab.finder, *shown], **busy)
        tab.cards.delete(self.remove, visitor, shown, **CHEAP)
        returned = blocks.load(self.returned, [stored, visitor], shown, **busy)
        controls = compose.controls
        heard = tab.cards.select(
            self.hear,
            [visitor, controls.prompt, controls.sampling["seed"]],
            [tabs, *compose.restored],
            **CHEAP,
        )
        self._previewing.after(heard, compose, latest)
        heard.success(None, None, None, js=GENERATE, **CHEAP)
        return returned

    async def find(self, text: str) -> AsyncIterator[tuple]:
        """Check what is an id, an address or a folder; search the Hub for anything else.

        Yields (finder, checked).
        """
        context, text = self._context, str(text or "").strip()
        if read_source(text, context.settings.folders):
            async for shown in self._checked(text):
                yield shown
            return
        yield {"message": "Searching the Hub…", "busy": True}, None
        try:
            if "/" in text or "\\" in text:
                check_source(text, context.settings.folders)  # an id or a path that is none: say what one is
            found = await asyncio.to_thread(search, context.runner.engine.base.id, text)
            yield adapters_page.found_value(found, text, self._base), None
        except Exception as fault:
            yield {"message": error_message(fault), "error": True}, None

    async def check(self, event: gr.EventData) -> AsyncIterator[tuple]:
        """Check an adapter that a search has found. Yields (finder, checked)."""
        async for shown in self._checked((event._data or {}).get("source")):
            yield shown

    async def _checked(self, text: object) -> AsyncIterator[tuple]:
        yield {"message": "Reading its configuration and the shapes of its tensors…", "busy": True}, None
        try:
            source, revision = check_source(text, self._context.settings.folders)
            report, found = await asyncio.to_thread(self._context.runner.added.check, source, revision)
            checked = (source, report.revision or revision, report, found) if report.ok else None
            yield adapters_page.report_value(self._base, report, found), checked
        except Exception as fault:
            yield {"message": error_message(fault), "error": True}, None

    async def add(self, checked: Checked | None, visitor: Visitor) -> AsyncIterator[list]:
        """Download and load what was checked. Yields the finder and what `_shown` gives."""
        nothing = [gr.skip()] * len(self._shown(visitor))
        if checked is None:
            yield [{"message": "Check an adapter first.", "error": True}, *nothing]
            return
        source, revision, report, found = checked
        try:
            yield [_progress(report, 0), *nothing]
            async with aclosing(throttled(self._loaded(visitor, source, revision, report), 8)) as groups:
                async for group in groups:
                    for news in group:
                        if isinstance(news, int):
                            yield [_progress(report, news), *nothing]
                        else:
                            report, adapter = news
            if adapter is None:
                yield [adapters_page.report_value(self._base, report, found), *nothing]
                return
            done = f"{adapter.label} is ready: its slider is under Compose, for you alone."
            yield [adapters_page.report_value(self._base, report, found, done), *self._shown(visitor)]
        except Exception as fault:
            yield [{"message": error_message(fault), "error": True}, *nothing]

    def _loaded(
        self, visitor: Visitor, source: str, revision: str | None, report: FitReport
    ) -> Generator[int | Done | None]:
        """Bytes as they come, and at the end the adapter, which then is the visitor's."""
        context, added, news = self._context, self._context.runner.added, SimpleQueue[int]()
        if any(
            (own.adapter.source, own.adapter.revision) == (source, report.revision) for own in visitor.own
        ):
            raise ComposerError("You have this adapter: its slider is under Compose.")
        visitor.check_room(context.budget, added.memory_of(report))
        fetch = Fetch(progress=lambda done, total: news.put(done))
        with ThreadPoolExecutor(1, thread_name_prefix="adding") as pool:
            work = partial(added.add, source, revision, fetch)
            future = pool.submit(run_in_short_lived_thread, work)
            while not (future.done() and news.empty()):
                try:
                    yield news.get(timeout=POLL)
                except Empty:
                    yield None
            report, adapter = future.result()
        if adapter is not None:
            try:
                visitor.check_room(context.budget, adapter.memory)
                visitor.add(adapter, context.settings.max_added)
            except ComposerError:
                added.release(adapter)
                raise
        yield report, adapter

    async def returned(self, stored: object, visitor: Visitor) -> AsyncIterator[list]:
        """Bring back what the visitor had, as the browser remembers it. Yields what `_shown` gives."""
        yield [gr.skip()] * len(self._shown(visitor))
        for source, revision in _remembered(stored)[: self._context.settings.max_added]:
            try:
                source, _ = check_source(source, self._context.settings.folders)
                report, _ = await asyncio.to_thread(self._context.runner.added.check, source, revision)
                if not report.ok:
                    continue
                async with aclosing(throttled(self._loaded(visitor, source, revision, report), 8)) as groups:
                    async for _ in groups:
                        pass
                yield self._shown(visitor, stored)
            except Exception as fault:
                error_message(fault)  # the log has it; the others may still come

    def remove(self, visitor: Visitor, event: gr.EventData) -> list:
        """Give up one of the visitor's own. Returns what `_shown` gives."""
        try:
            own = visitor.remove(str((event._data or {}).get("name")))
        except ComposerError:
            return [gr.skip()] * len(self._shown(visitor))
        self._context.runner.added.release(own.adapter)
        return self._shown(visitor)

    def hear(self, visitor: Visitor, prompt: str, seed: int, event: gr.EventData) -> list:
        """Everything at 0 but this adapter. Returns the tab to show and ComposeTab.restored."""
        name, context = (event._data or {}).get("name"), self._context
        if name not in context.names(visitor.own):
            raise gr.Error("This adapter is not here any more; reload the page.")
        plain = Composition({name: 1.0})
        text = prompt if str(prompt or "").strip() else NEUTRAL
        restored = self._mixing.restore(visitor, text, plain, Sampling(seed=int(seed or 0)))
        return [gr.update(selected="compose"), *restored]

    def cards(self, visitor: Visitor) -> dict[str, object]:
        """What the gallery shows a visitor."""
        own = [
            adapters_page.card(
                each.shown,
                f"From {each.adapter.source}." if each.adapter.revision else "From a folder of this machine.",
                self._base,
                each.adapter.report,
                each.adapter.card,
                own=True,
            )
            for each in visitor.own
        ]
        return {"cards": [*own, *self._catalog_cards], "budget": self._budget(visitor)}

    def _budget(self, visitor: Visitor) -> str:
        if not visitor.own:
            return ""
        budget, used = self._context.budget, sum(each.adapter.memory for each in visitor.own)
        return (
            f"Yours alone: {len(visitor.own)} of {budget.adapters} sliders, "
            f"{used / 1e6:,.0f} of {budget.memory / 1e6:,.0f} MB."
        )

    def _shown(self, visitor: Visitor, stored: object = None) -> list:
        """The visitor, what the browser remembers, the gallery, the curves and the spare sliders.

        stored: what the browser remembers, if that is to stay.
        """
        context, added = self._context, self._context.added(visitor)
        own = [[each.adapter.source, each.adapter.revision] for each in visitor.own]
        sliders = [
            gr.update(visible=False, value=0)
            if found is None
            else gr.update(visible=True, label=found.adapter.label, info=f"Yours, from {found.adapter.name}")
            for found in (visitor.at(slot) for slot in range(len(added)))
        ]
        return [
            visitor,
            own if stored is None else gr.skip(),
            self.cards(visitor),
            gr.update(slots=curves.slots(context.slots, added)),
            *sliders,
        ]


def _progress(report: FitReport, done: int) -> dict[str, object]:
    return {"message": f"Downloading {report.source}…", "busy": True, "done": done, "total": report.bytes}


def _remembered(stored: object) -> Sequence[tuple[str, str | None]]:
    """Sources and commits of what a browser sent, which may be anything."""
    pairs = (
        [each for each in stored if isinstance(each, list) and len(each) == 2]
        if isinstance(stored, list)
        else []
    )
    return [
        (source, revision)
        for source, revision in pairs
        if isinstance(source, str) and (revision is None or isinstance(revision, str))
    ]

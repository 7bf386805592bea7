"""One more adapter, for all visitors."""

from __future__ import annotations

import gradio as gr

from composer.core.errors import ComposerError
from composer.ui.components import curves
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.handlers.generating import CHEAP
from composer.ui.tabs import adapters as adapters_page
from composer.ui.tabs.compose import ComposeTab
from composer.ui.validation import check_source


class Adding:
    """The handlers of the tab of adapters."""

    def __init__(self, context: PageContext):
        self._context = context

    def connect(self, blocks: gr.Blocks, tab: ComposeTab, adapters_tab: adapters_page.AdaptersTab) -> None:
        """Connect the form, and what another visitor has added before the page was opened."""
        spare_sliders = [
            slider
            for slot, slider in zip(self._context.slots, tab.controls.weights, strict=True)
            if slot.spare is not None
        ]
        shown = [adapters_tab.cards, tab.controls.curves, *spare_sliders]
        blocks.load(self.refresh, None, shown, **CHEAP)
        gr.on(
            [adapters_tab.add.click, adapters_tab.source.submit],
            self.add,
            adapters_tab.source,
            [adapters_tab.report, *shown],
            concurrency_id="adapters",
            concurrency_limit=1,
            api_visibility="private",
        )

    def refresh(self) -> list:
        """Cards, curves and spare sliders as they are now: another visitor may have added an adapter."""
        context = self._context
        added = context.runner.added
        spare_slots = [slot for slot in context.slots if slot.spare is not None]
        return [
            self.cards(),
            gr.update(slots=curves.slots(context.slots, added)),
            *(
                gr.update(visible=True, label=added[slot.spare]) if slot.spare < len(added) else gr.skip()
                for slot in spare_slots
            ),
        ]

    def add(self, source: str) -> list:
        """Check and load one more adapter; updates of the report, the cards and the spare sliders."""
        context = self._context
        try:
            if len(context.runner.added) >= context.settings.max_added:
                raise ComposerError("No slider is free; list the adapter in adapters.yaml and start again.")
            report, words = context.runner.add(check_source(source, context.settings.folders)), ""
        except Exception as fault:
            report, words = None, error_message(fault)
        shown = gr.update(value=adapters_page.report_value(report, words), visible=True)
        return [shown, *self.refresh()]

    def cards(self) -> list[dict[str, str]]:
        """What the tab of adapters shows now."""
        engine = self._context.runner.engine
        colors = {each["name"]: each["color"] for each in self._context.legend()}
        return adapters_page.cards(
            engine.snapshot.adapters, colors, {report.name: report for report in engine.reports if report.ok}
        )

"""The controls themselves: sliders, the method's parameters, presets, and what a recipe puts back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial

import gradio as gr
import numpy as np

from composer.core.composition import Composition, Sampling
from composer.ui.components import curves, next_words
from composer.ui.components.weight_sliders import is_shown, needs_per_adapter, to_values, to_weights
from composer.ui.context import PageContext
from composer.ui.handlers.generating import CHEAP, status_update
from composer.ui.handlers.previewing import Latest, Previewing
from composer.ui.recordings import Recording
from composer.ui.tabs.compose import SAMPLING, ComposeTab, parameter_updates
from composer.ui.views.generation import Progress
from composer.ui.visitors import Visitor


class Mixing:
    """The handlers of the controls."""

    def __init__(self, context: PageContext, previewing: Previewing):
        self._context, self._previewing = context, previewing

    def connect(
        self, tab: ComposeTab, progress: gr.State, latest: gr.State, running: Sequence[object]
    ) -> None:
        """Connect the method, the switch, "All to 0" and the presets. running: events that a preset ends."""
        controls = tab.controls
        weights = list(controls.weights)
        shown = [tab.method_help, *controls.parameters.values(), tab.more]
        controls.method.input(parameter_updates, controls.method, shown, **CHEAP)
        switched = [controls.visitor, controls.per_adapter, *weights]
        controls.per_adapter.input(self.switch, switched, weights, **CHEAP)
        # In the browser: an answer that came late would undo what was moved meanwhile.
        nothing = [curves.value(Composition()), *[0] * len(weights)]
        zeroed = tab.zero.click(
            None, None, [controls.curves, *weights], js=f"() => {json.dumps(nothing)}", **CHEAP
        )
        self._previewing.after(zeroed, tab, latest)
        for place, button in enumerate(tab.examples):
            loaded = button.click(
                partial(self.load_example, place),
                [controls.visitor, latest],
                [tab.live, tab.next_words, tab.fusion, tab.contribution, progress, tab.stop, *tab.restored],
                cancels=running,
                **CHEAP,
            )
            if self._context.recordings[place] is None:
                self._previewing.after(loaded, tab, latest)

    def switch(self, visitor: Visitor, per_adapter: bool, *values) -> list:
        """Slider updates when the visitor changes between two-way sliders and one per adapter."""
        slots, added = self._context.slots, self._context.added(visitor)
        weights = to_weights(slots, values, not per_adapter, added)
        return self._show(to_values(slots, weights, added), per_adapter, added)

    def load_example(self, place: int, visitor: Visitor, latest: Latest) -> list:
        """A preset: its recording if there is one, and all controls as it has them.

        Everything that the visitor may have moved returns to its initial value, so that the preset's note is
        true. Returns the live view, the next words, both figures, the progress, Stop and ComposeTab.restored.
        """
        context = self._context
        latest.begin()
        example, recording = context.examples[place], context.recordings[place]
        composition = context.composition_of(example)
        alpha = None
        if recording is None:
            skip = gr.skip()
            shown = [status_update(example.note, "idle"), skip, skip, skip, None]
            sampling = Sampling(seed=example.seed)
        else:
            shown, sampling = self.recorded(recording, example.note), recording.request.sampling
            alpha = shown[-1].shared(recording.fusion)
        restored = self.restore(visitor, example.prompt, composition, sampling, alpha)
        return [*shown, gr.update(interactive=False), *restored]

    def recorded(self, recording: Recording, note: str) -> list:
        """The live view, the next words, both figures and the progress of a recording."""
        context = self._context
        progress = recorded_progress(context, recording)
        words = next_words.message(next_words.EMPTY)
        if recording.next_tokens is not None:
            weights = recording.request.composition.weights
            words = next_words.view(recording.next_tokens, context.by_name(), weights)
        return [
            recorded_view(progress, recording, note),
            words,
            progress.fusion_figure(recording.fusion),
            progress.contribution_figure(),
            progress,
        ]

    def restore(
        self,
        visitor: Visitor,
        prompt: str,
        composition: Composition,
        sampling: Sampling,
        alpha: Mapping[str, np.ndarray] | None = None,
    ) -> list:
        """Updates of every control, in the order of ComposeTab.restored. alpha: see curves.alpha_curves."""
        painter = curves.value(composition)
        if alpha is not None:
            painter = gr.update(value=painter, alpha=curves.alpha_curves(alpha))
        context, added = self._context, self._context.added(visitor)
        per_adapter = needs_per_adapter(context.slots, composition.weights)
        values = to_values(context.slots, composition.weights, added)
        most = context.settings.max_new_tokens
        tokens = min(sampling.max_new_tokens, most)
        return [
            prompt,
            composition.method,
            *parameter_updates(composition.method, composition),
            composition.strength,
            *composition.bands,
            *(tokens if name == "max_new_tokens" else getattr(sampling, name) for name in SAMPLING),
            sampling.seed,
            per_adapter,
            painter,
            *self._show(values, per_adapter, added),
        ]

    def _show(self, values: list[float], per_adapter: bool, added: Sequence[str | None]) -> list:
        return [
            gr.update(value=value, visible=is_shown(slot, per_adapter, added))
            for slot, value in zip(self._context.slots, values, strict=True)
        ]


def recorded_progress(context: PageContext, recording: Recording) -> Progress:
    """The recording as a generation that has ended."""
    return context.progress(
        recording.request, steps=list(recording.steps), read=recording.reading, fusion=recording.fusion
    )


def recorded_view(progress: Progress, recording: Recording, note: str = "") -> dict[str, object]:
    """The live view that plays a recording."""
    seed = recording.request.sampling.seed
    how = f"Recorded by python -m composer record ({recording.machine}). Generate repeats it live."
    badge = {"label": f"Recorded, seed {seed}", "hint": how, "note": note}
    return progress.finished() | {"recorded": badge}

"""Learn: starts a lesson on the real controls, and checks the texts that are written under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import gradio as gr

from composer.ui.components import lesson as lesson_panel
from composer.ui.components import next_words
from composer.ui.context import PageContext
from composer.ui.handlers.generating import CHEAP, empty_view
from composer.ui.handlers.mixing import Mixing
from composer.ui.handlers.previewing import Latest, Previewing
from composer.ui.lessons import LESSONS, SHORT, Assessment, Attempt, Lesson, attempt_of
from composer.ui.tabs.compose import ComposeTab
from composer.ui.tabs.learn import LearnTab
from composer.ui.views.generation import Progress
from composer.ui.visitors import Visitor


@dataclass
class Learner:
    """A visitor's lesson: which one, what was written under it, and which were passed."""

    lesson: str = ""
    runs: list[Attempt] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)


class Learning:
    """The handlers of the lessons. `learner` is the visitor's gr.State."""

    def __init__(self, context: PageContext, mixing: Mixing, previewing: Previewing):
        self._context, self._mixing, self._previewing = context, mixing, previewing
        here, judged = set(context.runner.catalog_names), context.meters.labels
        wanted = {"positive", "negative", "sports"}
        self.lessons = tuple(each for each in LESSONS if each.adapters <= here and wanted <= judged)
        self._labels = {each["name"]: each["label"] for each in context.legend()}

    def connect(
        self,
        tabs: gr.Tabs,
        compose: ComposeTab,
        tab: LearnTab,
        progress: gr.State,
        latest: gr.State,
        running: Sequence[gr.events.Dependency],
    ) -> None:
        """running: the events that write texts."""
        learner = gr.State(Learner())
        shown = [tab.cards, compose.lesson, learner]
        began = [tabs, *shown, compose.live, compose.next_words, progress, compose.stop, *compose.restored]
        inputs = [compose.controls.visitor, latest, learner]
        for start in (tab.cards.select, compose.lesson.select):
            started = start(self.start, inputs, began, cancels=list(running), **CHEAP)
            self._previewing.after(started, compose, latest)
        compose.lesson.delete(self.leave, learner, shown, **CHEAP)
        for run in running:
            run.then(self.check, [progress, learner], shown, **CHEAP)

    def cards(self, learner: Learner) -> dict[str, object]:
        """The list of lessons."""
        return {
            "lessons": [
                {
                    "name": each.name,
                    "title": each.title,
                    "teaser": each.teaser,
                    "passed": each.name in learner.passed,
                }
                for each in self.lessons
            ]
        }

    def start(self, visitor: Visitor, latest: Latest, learner: Learner, event: gr.EventData) -> list:
        """Put the controls where the lesson begins. Returns the tab to show, what `_shown` gives, the live
        view, the next words, the progress, Stop and ComposeTab.restored."""
        name = (event._data or {}).get("name")
        lesson = next((each for each in self.lessons if each.name == name), None)
        if lesson is None:
            raise gr.Error("There is no such lesson; reload the page.")
        latest.begin()
        learner.lesson, learner.runs = lesson.name, []
        sampling = replace(SHORT, seed=lesson.seed)
        return [
            gr.update(selected="compose"),
            *self._shown(learner, lesson, None),
            empty_view(self._context, lesson.prompt, "The lesson begins: press Generate."),
            next_words.message(next_words.EMPTY),
            None,
            gr.update(interactive=False),
            *self._mixing.restore(visitor, lesson.prompt, lesson.composition, sampling),
        ]

    def leave(self, learner: Learner) -> list:
        """Close the lesson; the controls stay."""
        learner.lesson, learner.runs = "", []
        return self._shown(learner, None, None)

    def check(self, progress: Progress | None, learner: Learner) -> list:
        """What the text that has just been written says about the lesson."""
        lesson = next((each for each in self.lessons if each.name == learner.lesson), None)
        if lesson is None or progress is None or not progress.steps or progress.steps[-1].finish is None:
            return [gr.skip(), gr.skip(), learner]
        shares = self._context.meters.shares(progress.request.prompt + progress.text)
        learner.runs.append(attempt_of(progress, shares))
        verdict = lesson.check(learner.runs, self._labels)
        if verdict.passed:
            learner.passed.add(lesson.name)
        return self._shown(learner, lesson, verdict)

    def _shown(self, learner: Learner, lesson: Lesson | None, verdict: Assessment | None) -> list:
        """The list of lessons, the panel and the learner."""
        panel: dict[str, object] = {"lesson": None}
        if lesson is not None:
            place = self.lessons.index(lesson)
            following = self.lessons[place + 1] if place + 1 < len(self.lessons) else None
            panel = {
                "lesson": lesson.name,
                "title": lesson.title,
                "place": f"Lesson {place + 1} of {len(self.lessons)}",
                "words": lesson.words,
                "task": lesson.task,
                "formula": lesson.formula,
                "passed": bool(verdict and verdict.passed),
                "verdict": verdict.sentence if verdict else "",
                **lesson_panel.sliders(self._context.slots, self._context.runner.engine.attributes),
                "next": following and {"name": following.name, "title": following.title},
            }
        return [self.cards(learner), gr.update(value=panel, visible=lesson is not None), learner]

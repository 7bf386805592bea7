"""The lessons' checks on runs with known numbers, and the handlers that start and check a lesson."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest

from composer.core.composition import Composition
from composer.evaluation.judges.ngram_judge import NgramJudge
from composer.ui.components.meters import Meters
from composer.ui.handlers.learning import Learner
from composer.ui.handlers.previewing import Latest
from composer.ui.lessons import LESSONS, Attempt
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from composer.ui.visitors import Visitor
from tests.tools import tiny
from tests.tools.handlers import Controls, everything

BY_NAME = {each.name: each for each in LESSONS}
LABELS = {"positive": "Positive", "negative": "Negative", "sports": "Sports"}


def run(weights, method="sum", shares=None, perplexity=10.0, alpha=None, pieces=("a", "b"), **more):
    used = [name for name, weight in weights.items() if weight]
    contribution = {name: np.linspace(0.01, 0.04 * (k + 1), 12) for k, name in enumerate(used)}
    mix = Composition(weights, method, **more)
    return Attempt(mix, "The", 0, pieces, shares or {}, perplexity, alpha or {}, contribution)


def check(name, *runs):
    return BY_NAME[name].check(runs, LABELS)


GOOD = {"positive": 0.95, "negative": 0.9, "sports": 0.85}
LOW = {"positive": 0.3, "negative": 0.2, "sports": 0.1}
HALF = {"positive": np.full(12, 0.7), "sports": np.full(12, 0.3)}


@pytest.mark.parametrize(
    ("name", "passing", "failing"),
    [
        ("one-slider", [run({"positive": 1}, shares=GOOD)], [run({}, shares=GOOD)]),
        ("one-slider", [run({}), run({"positive": 1}, shares=GOOD)], [run({"positive": 1}, shares=LOW)]),
        ("one-slider", [run({"positive": 1}, shares=GOOD)], [run({"positive": 1, "sports": 1}, shares=GOOD)]),
        (
            "sum-or-merge",
            [run({"a": 1, "b": 1}), run({"a": 1, "b": 1}, "linear", pieces=("a", "c"))],
            [run({"a": 1, "b": 1}, "linear", pieces=("a", "c"))],
        ),
        (
            "sum-or-merge",
            [run({"a": 1, "b": 1}, "ties", pieces=("x", "b")), run({"a": 1, "b": 1})],
            [run({"a": 1, "b": 1}), run({"a": 1, "b": 1}, "cat")],  # the same words
        ),
        (
            "sum-or-merge",
            [run({"a": 1, "b": 1}), run({"a": 1, "b": 1}, "linear", pieces=("a", "c"))],
            [run({"a": 1, "b": 1}), run({"a": 1, "b": 0.5}, "linear", pieces=("a", "c"))],  # other sliders
        ),
        (
            "conflict",
            [run({"negative": 1, "sports": 1}, shares=GOOD)],
            [run({"negative": 1, "sports": 1}, shares={**GOOD, "sports": 0.79})],
        ),
        (
            "conflict",
            [run({"negative": 1, "sports": 1}, shares=GOOD)],
            [run({"positive": 1, "sports": 1}, shares=GOOD)],
        ),
        (
            "kl",
            [run({"positive": 1, "sports": 1}, "kl", alpha=HALF)],
            [run({"positive": 1, "sports": 1}, "kl", alpha={"positive": 1 - HALF["positive"]})],
        ),
        (
            "kl",
            [run({"positive": 1, "sports": 1}, "kl", alpha=HALF)],
            [run({"positive": 1, "sports": 1}, "sum", alpha=HALF)],
        ),
        ("breaking", [run({"positive": 1}), run({"positive": 2}, perplexity=21)], [run({"positive": 1})]),
        (
            "breaking",
            [run({"positive": 1}), run({"positive": 2}, perplexity=21)],
            [run({"positive": 1}), run({"positive": 2}, perplexity=19)],
        ),
        (
            "contrast",
            [run({"positive": 1, "sports": 1}, "contrast", shares=GOOD)],
            [run({"positive": 1, "sports": 1}, "sum", shares=GOOD)],
        ),
        (
            "contrast",
            [run({"positive": 1, "sports": 1}, "contrast", shares=GOOD)],
            [run({"positive": 1, "sports": 1}, "contrast", shares=LOW)],
        ),
    ],
)
def test_a_lesson_passes_for_what_it_asks_and_nothing_else(name, passing, failing):
    good, bad = check(name, *passing), check(name, *failing)
    assert good.passed and not bad.passed
    assert good.sentence.endswith(".") and bad.sentence.endswith(".") and "nan" not in good.sentence


def test_a_verdict_has_the_runs_numbers():
    told = check("one-slider", run({"positive": 1}, shares=GOOD)).sentence
    assert "Positive 95%" in told and "added 4.0% of the base's own output in layer 12" in told
    assert "α of Positive 70%" in check("kl", run({"positive": 1, "sports": 1}, "kl", alpha=HALF)).sentence
    told = check("breaking", run({"positive": 1}), run({"positive": 2}, perplexity=30)).sentence
    assert "Perplexity 30.0, 3.0 times" in told
    told = check("conflict", run({"negative": 1, "sports": 1}, shares=GOOD)).sentence
    assert "Negative made 36% and Sports made 64%" in told


def test_the_texts_of_all_lessons_are_short():
    assert len(LESSONS) == 6
    for each in LESSONS:
        assert len(each.words) < 260 and len(each.task) < 120 and each.task.endswith(".")


@pytest.fixture
def page(tmp_path, monkeypatch):
    names = ("positive", "negative", "sports")
    folders = {name: tiny.adapter(tmp_path / name, "llama", k, r=2) for k, name in enumerate(names)}
    engine = tiny.engine("llama", folders)
    engine.end_tokens = frozenset()
    with closing(BatchedRunner(engine, Settings())) as runner:
        monkeypatch.setattr(NgramJudge, "shares", lambda self, text: dict.fromkeys(self.labels, 0.9))
        monkeypatch.setattr(Meters, "labels", {*names})
        made = Page(runner, Settings())
        made.blocks()
        monkeypatch.setattr(Meters, "shares", lambda self, text: dict.fromkeys(names, 0.9))
        yield made


def start(page, learner, name):
    return page.learning.start(Visitor(), Latest(), learner, SimpleNamespace(_data={"name": name}))


def write(page, **weights):
    sliders = [weights.get(slot.key.removeprefix("one-"), 0.0) for slot in page.context.slots]
    controls = Controls(page, sliders=sliders)
    *_, (_, _, _, progress, _, _) = everything(page.generating.generate(controls))
    return progress


def test_a_lesson_sets_the_controls_checks_each_text_and_is_ticked_off(page):
    learner = Learner()
    tab, cards, panel, _, live, *_ = start(page, learner, "one-slider")
    assert tab["selected"] == "compose" and panel["visible"] and live["prompt"] == "The movie"
    assert panel["value"]["place"] == "Lesson 1 of 6" and panel["value"]["verdict"] == ""
    _, panel, _ = page.learning.check(write(page), learner)
    assert not panel["value"]["passed"] and "base alone" in panel["value"]["verdict"]
    cards, panel, _ = page.learning.check(write(page, positive=1.0), learner)
    assert panel["value"]["passed"] and panel["value"]["next"]["name"] == "sum-or-merge"
    assert [each["passed"] for each in cards["lessons"]] == [True] + [False] * 5
    cards, panel, _ = page.learning.leave(learner)
    assert not panel["visible"] and cards["lessons"][0]["passed"]
    assert page.learning.check(write(page), learner)[1] == gr.skip()


@pytest.mark.parametrize("name", [None, "nothing", 7, ["one-slider"]])
def test_a_lesson_that_there_is_not_is_refused(page, name):
    with pytest.raises(gr.Error):
        start(page, Learner(), name)


def test_other_adapters_have_no_lessons(tmp_path):
    engine = tiny.engine("llama", {"a": tiny.adapter(tmp_path / "a", "llama", 1, r=2)})
    with closing(BatchedRunner(engine, Settings())) as runner:
        assert Page(runner, Settings()).learning.lessons == ()

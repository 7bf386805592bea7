"""The tab of doses without a browser: sweeps, partial results, stopping, and what is refused."""

from __future__ import annotations

import json
from contextlib import closing
from types import SimpleNamespace

import pytest

from composer.evaluation.dose.sweep import Decider
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from composer.ui.visitors import Visitor
from tests.tools import tiny
from tests.tools.handlers import Controls, everything


@pytest.fixture
def page(tmp_path):
    engine = tiny.engine(
        "llama", {name: tiny.adapter(tmp_path / name, "llama", k, r=2) for k, name in enumerate("ab")}
    )
    engine.end_tokens = frozenset()
    settings = Settings(folders=True, max_added=2)
    with closing(BatchedRunner(engine, settings)) as runner:
        made = Page(runner, settings)
        made.blocks()
        made.dosing._deciders = {
            name: Decider(name, "a letter", lambda prompt, text, name=name: name in text) for name in "ab"
        }
        yield made


def swept(page, *asked, **controls):
    given = asked or ("a", 0, 2, 5, "", 0, 2, 0, "", 1)
    return everything(page.dosing.sweep(Controls(page, **controls), *given))


def test_one_slider_is_swept(page):
    shown = swept(page)
    value, _, stop = shown[-1]
    assert shown[0][1] is not None and shown[0][0]["busy"] and stop["interactive"] is False
    assert value["axes"] == [{"label": "a", "weights": [0, 0.5, 1, 1.5, 2]}]
    assert value["texts"] == [1] * 5 and not value["busy"] and len(value["perplexity"]) == 5
    assert [each["label"] for each in value["series"]] == ["a"] and "weet spot" in value["finding"]
    assert json.loads(value["files"]["json"])["sweep"] == {"a": [0, 0.5, 1, 1.5, 2]}
    assert value["files"]["csv"].splitlines()[0].startswith("weight of a,a right")
    assert json.dumps(value)


def test_a_visitors_own_prompts_are_continued(page):
    value = swept(page, "a", 0, 2, 5, "", 0, 2, -1, "Who\n\n Where \nWho", 1)[-1][0]
    assert value["texts"] == [2] * 5
    assert {each["prompt"] for each in json.loads(value["files"]["json"])["texts"]} == {"Who", "Where"}


def test_two_sliders_are_every_pair(page):
    value = swept(page, "a", 0, 1, 5, "b", -1, 1, 0, "", 1)[-1][0]
    assert [len(axis["weights"]) for axis in value["axes"]] == [5, 5] and value["texts"] == [1] * 25


def test_a_sweep_writes_what_the_mix_writes(page):
    from composer import Composition, Sampling

    value = swept(page, "b", 0, 1, 5, "", 0, 2, 0, "", 1, sampling={"max_new_tokens": 3, "seed": 4})[-1][0]
    texts = {tuple(each["weights"]): each["text"] for each in json.loads(value["files"]["json"])["texts"]}
    steps = page.runner.engine.generate("The", Composition({"a": 1, "b": 0.5}), Sampling(3, seed=4))
    assert texts[(0.5,)] == list(steps)[-1].text


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("nobody", 0, 2, 5, "", 0, 2, 0, "", 1), "not here"),
        ((None, 0, 2, 5, "", 0, 2, 0, "", 1), "Choose an adapter"),
        (("a", 2, 0, 5, "", 0, 2, 0, "", 1), "lower"),
        (("a", "x", 2, 5, "", 0, 2, 0, "", 1), "first weight"),
        (("a", 0, 2, 6, "", 0, 2, 0, "", 1), "from the lists"),
        (("a", 0, 2, 5, "", 0, 2, 35, "", 1), "from the lists"),
        (("a", 0, 2, 5, "a", 0, 2, 0, "", 1), "two different"),
        (("a", 0, 2, 13, "", 0, 2, 15, "", 4), "at most 400"),
        (("a", 0, 2, 5, "", 0, 2, -1, " \n ", 1), "one a line"),
        (("a", 0, 2, 5, "", 0, 2, -1, None, 1), "one a line"),
        (("a", 0, 2, 5, "", 0, 2, -1, "\n".join(map(str, range(30))), 1), "1 to 20"),
        (("a", 0, 2, 5, "", 0, 2, -1, "x" * 9000, 1), "shorten it"),
        (("<img src=x>", 0, 2, 5, "", 0, 2, 0, "", 1), "not here"),
    ],
)
def test_what_cannot_be_swept_is_a_sentence(page, asked, words):
    value, dose, stop = swept(page, *asked)[-1]
    assert value["error"] and words in value["message"] and dose is None and stop["interactive"] is False


def test_what_was_written_before_a_stop_stays(page):
    dose = swept(page)[0][1]
    value, stop = everything(page.dosing.stopped(Visitor(), dose))
    assert value["files"] and stop["interactive"] is False
    value, _ = everything(page.dosing.stopped(Visitor(), None))
    assert "Stopped" in value["message"]


def test_the_lists_offer_the_visitors_own_and_the_strongest_first(page, tmp_path):
    sliders = [2.0 if slot.key == "one-b" else 0.5 for slot in page.context.slots]
    first, second = page.dosing.offer(Controls(page, sliders=sliders), None)
    assert first["value"] == "b" and [name for _, name in first["choices"]] == ["a", "b"]
    visitor = Visitor()
    _, own = page.runner.added.add(str(tiny.adapter(tmp_path / "mine", "llama", 9, r=2)))
    visitor.add(own, 2)
    first, second = page.dosing.offer(Controls(page, visitor=visitor), "mine")
    assert first["value"] == "mine" and second["choices"][-1] == ("mine", "mine")
    value = everything(
        page.dosing.sweep(Controls(page, visitor=visitor), "mine", 0, 1, 5, "", 0, 2, 0, "", 1)
    )[-1][0]
    assert "No judge decides on mine" not in value["message"] and value["texts"] == [1] * 5


def test_a_fault_of_one_text_is_told_and_the_others_are_counted(page, monkeypatch):
    def run_many(requests, names, background):
        assert background
        yield 0, RuntimeError("secret /srv/x")
        for place in range(1, len(requests)):
            yield place, SimpleNamespace(finish="length", text="a b")

    monkeypatch.setattr(page.runner, "run_many", run_many)
    value = swept(page)[-1][0]
    assert "/srv" not in value["fault"] and value["texts"] == [0, 1, 1, 1, 1]

"""Adapters that belong to one visitor: bringing, hearing, giving up and getting them back."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr
import pytest

from composer.core.catalog_types import FitReport
from composer.core.errors import ComposerError
from composer.ui.handlers.previewing import Latest
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from composer.ui.visitors import Programs, Visitor
from tests.tools import tiny
from tests.tools.handlers import Controls, everything


@pytest.fixture
def page(tmp_path):
    engine = tiny.engine("llama", {"plain": tiny.adapter(tmp_path / "plain", "llama", 1, r=4)})
    engine.end_tokens = frozenset()
    settings = Settings(folders=True, max_added=2)
    runner = BatchedRunner(engine, settings)
    made = Page(runner, settings)
    made.blocks()
    yield made
    runner.close()


@pytest.fixture
def folder(tmp_path):
    return lambda name, seed=7, **config: str(
        tiny.adapter(tmp_path / name, "llama", seed, **{"r": 4, **config})
    )


def bring(page, visitor, source):
    """What the page shows last of checking and adding an adapter."""
    _, checked = everything(page.adding.find(source))[-1]
    return everything(page.adding.add(checked, visitor))[-1]


def event(**data):
    return SimpleNamespace(_data=data)


def generated(page, visitor, spare, method="sum"):
    """The adapters in the last view of a text with the first spare slider at `spare`."""
    sliders = [spare if slot.spare == 0 else 0.0 for slot in page.context.slots]
    controls = Controls(page, visitor=visitor, sliders=sliders, method=method)
    return everything(page.generating.generate(controls))[-1][0]


def test_what_a_visitor_brings_is_theirs_alone(page, folder):
    mine, other = Visitor(), Visitor()
    finder, visitor, stored, gallery, _, first, second = bring(page, mine, folder("mine"))
    assert "ready" in finder["report"]["headline"] and visitor is mine
    assert (
        stored[0][0].endswith("mine") and gallery["cards"][0]["own"] and gallery["budget"].startswith("Yours")
    )
    assert (first["visible"], first["label"], second["visible"]) == (True, "mine", False)
    assert [card["label"] for card in page.adding.cards(other)["cards"]] == ["plain"]
    view = generated(page, mine, 1.0)
    assert view["status"]["phase"] == "done" and [each["name"] for each in view["adapters"]] == [
        "plain",
        "mine",
    ]
    view = generated(page, other, 1.0)  # the slider is not theirs, so its value counts for nothing
    assert [each["name"] for each in view["adapters"]] == ["plain"]


def test_one_that_stands_at_0_takes_no_part(page, folder):
    visitor = Visitor()
    bring(page, visitor, folder("mine"))
    page.runner.added._unload("mine")  # nor has it to be loaded
    sliders = [1.0 if slot.key == "one-plain" else 0.0 for slot in page.context.slots]
    painted = {"curves": {"mine": [0, 1]}, "schedule": {"mine": [2, 3]}}
    controls = Controls(page, visitor=visitor, sliders=sliders, curves=painted)
    view = everything(page.generating.generate(controls))[-1][0]
    assert view["status"]["phase"] == "done" and [each["name"] for each in view["adapters"]] == ["plain"]
    assert "mine" not in page.runner.engine.names
    panel = everything(page.previewing.preview(controls, Latest()))
    assert len(panel["words"]) == 10


def test_nobody_can_name_what_is_not_theirs(page, folder):
    bring(page, Visitor(), folder("secret"))
    with pytest.raises(ComposerError) as told:
        page.runner.engine.resolve(
            __import__("composer").Composition({"secret": 1}), among=page.context.names()
        )
    assert "secret, plain" not in str(told.value) and "There are: plain." in str(told.value)
    with pytest.raises(gr.Error, match="not here"):
        page.adding.hear(Visitor(), "", 0, event(name="secret"))


def test_hearing_one_alone(page, folder):
    visitor = Visitor()
    bring(page, visitor, folder("mine"))
    tab, prompt, method, *rest = page.adding.hear(visitor, " ", 5, event(name="mine"))
    sliders = dict(
        zip((slot.key for slot in page.context.slots), rest[-len(page.context.slots) :], strict=True)
    )
    assert tab["selected"] == "compose" and prompt == "Once upon a time" and method == "sum"
    assert sliders["spare-0"]["value"] == 1 and sliders["one-plain"]["value"] == 0


def test_given_up_it_is_gone_and_its_slider_is_free(page, folder):
    visitor, engine = Visitor(), page.runner.engine
    bring(page, visitor, folder("one", 1))
    bring(page, visitor, folder("two", 2))
    shown = page.adding.remove(visitor, event(name="one"))
    assert [shown[-2]["visible"], shown[-1]["visible"]] == [False, True] and engine.names == ("plain", "two")
    *_, first, second = bring(page, visitor, folder("three", 3))
    assert (first["label"], second["label"]) == ("three", "two")
    assert all(each == gr.skip() for each in page.adding.remove(visitor, event(name="nobody")))


@pytest.mark.parametrize("data", [None, {}, {"name": 7}, {"name": ["mine"]}])
def test_broken_events_change_nothing(page, data):
    sent = SimpleNamespace(_data=data)
    assert all(each == gr.skip() for each in page.adding.remove(Visitor(), sent))
    with pytest.raises(gr.Error):
        page.adding.hear(Visitor(), "", 0, sent)


def test_a_visitor_has_a_budget(page, folder):
    visitor = Visitor()
    bring(page, visitor, folder("one", 1)), bring(page, visitor, folder("two", 2))
    shown, *others = bring(page, visitor, folder("three", 3))
    assert "remove one first" in shown["message"] and all(each == gr.skip() for each in others)
    assert len(page.runner.engine.names) == 3
    shown, *_ = bring(page, visitor, folder("one", 1))
    assert "You have this adapter" in shown["message"]


def test_memory_is_part_of_it(page, folder):
    object.__setattr__(page.context.budget, "memory", 10.0)
    shown, *_ = bring(page, Visitor(), folder("one"))
    assert "together may take" in shown["message"] and page.runner.engine.names == ("plain",)


def test_one_that_does_not_fit_says_why_and_cannot_be_added(page, folder):
    shown, checked = everything(page.adding.find(folder("dora", use_dora=True)))[-1]
    assert shown["report"]["ok"] is False and "DoRA" in shown["report"]["reasons"][0] and checked is None
    shown, *_ = everything(page.adding.add(checked, Visitor()))[-1]
    assert "Check an adapter first" in shown["message"]


def test_whoever_comes_back_gets_theirs_again(page, folder):
    before = Visitor()
    _, _, stored, *_ = bring(page, before, folder("mine"))
    before.leave(page.runner.added)
    assert page.runner.engine.names == ("plain",)
    visitor = Visitor()
    shown = everything(page.adding.returned(stored, visitor))
    assert shown[-1][0] is visitor and [own.name for own in visitor.own] == ["mine"]
    assert page.runner.engine.names == ("plain", "mine")


@pytest.mark.parametrize(
    "stored", [None, "x", [7], [["a"]], [[None, None]], [["../../etc", None]], [["no/folder", 5]], {"a": 1}]
)
def test_what_a_browser_remembers_may_be_anything(page, stored):
    visitor = Visitor()
    assert everything(page.adding.returned(stored, visitor))
    assert visitor.own == ()


def test_one_that_made_room_is_loaded_again_where_it_is_used(page, folder):
    visitor = Visitor()
    bring(page, visitor, folder("mine"))
    expected = generated(page, visitor, 1.0)["text"]
    page.runner.added._unload("mine")
    assert page.runner.engine.names == ("plain",)
    assert generated(page, visitor, 1.0)["text"] == expected and "mine" in page.runner.engine.names


def test_programs_name_adapters_by_their_id(page, folder, monkeypatch):
    programs, source = Programs(lambda: page.runner.added, page.context.budget, most=1), folder("mine")
    add = page.runner.added.add
    monkeypatch.setattr(page.runner.added, "add", lambda repo, revision=None: add(source))
    visitor, called = programs.visitor("here", ["owner/mine@main"])
    assert called == {"owner/mine@main": "mine"} and [own.name for own in visitor.own] == ["mine"]
    assert programs.visitor("here", ["owner/mine@main"])[1] == called and page.runner.engine.names == (
        "plain",
        "mine",
    )
    source = folder("other", 9)
    programs.visitor("here", ["owner/other"])
    assert page.runner.engine.names == ("plain", "other"), "the one that was named last is kept"
    with pytest.raises(ComposerError, match="remove one first"):
        programs.visitor("here", ["a/1", "a/2", "a/3"])


def test_a_program_hears_why_an_adapter_cannot_be_had(page, monkeypatch):
    refused = FitReport("x", "owner/x", ok=False, reasons=("It uses DoRA.",))
    monkeypatch.setattr(page.runner.added, "add", lambda *_: (refused, None))
    with pytest.raises(ComposerError, match="DoRA"):
        page.context.programs.visitor("here", ["owner/x"])

"""From one base's page to another's: what comes along, where a link leads, what shows without recordings."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import parse_qs

import gradio as gr
import pytest

from composer import Sampling
from composer.adapters.recipe import recipe_yaml
from composer.core.catalog_types import Catalog
from composer.engine.recipes import recipe_of
from composer.ui.bases.menu import BaseMenu
from composer.ui.handlers.choosing import Choosing
from composer.ui.page import Page, header
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from composer.ui.sharing import decode, encode
from composer.ui.visitors import Visitor
from tests.tools import tiny
from tests.tools.handlers import Controls

OTHER = "other"
SAMPLING = Sampling()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a base beside which the catalog has another, with one of its three adapters."""
    folders = tiny.three_unlike(tmp_path_factory.mktemp("llama"), "llama")
    engine = tiny.engine("llama", folders)
    own = engine.base.spec
    other = replace(
        own, name=OTHER, id="tiny/other", label="The other", adapters=engine.snapshot.adapters[:1]
    )
    engine.catalog = Catalog(".", OTHER, {own.name: own, OTHER: other})
    with closing(BatchedRunner(engine, Settings())) as runner:
        made = Page(runner, Settings(), BaseMenu(engine.catalog, home=OTHER, here=own.name))
        made.blocks()
        yield made


def carried(page, name=OTHER, **values):
    choosing = Choosing(page.context, page.menu, Controls(page, **values))
    return choosing.carried(SimpleNamespace(_data={"name": name, "turn": 3}), "dose")


def test_the_prompt_and_the_weights_that_the_other_base_knows_come_along(page):
    first, second = page.context.names()[:2]
    weights = {first: 1.0, second: 0.5}
    sliders = [weights.get(next(iter(slot.adapters), ""), 0.0) for slot in page.context.slots]
    answer = carried(page, prompt="Who goes", sliders=sliders, sampling={"max_new_tokens": 5, "seed": 9})
    assert (answer["name"], answer["turn"]) == (OTHER, 3)
    way, _, query = answer["way"].partition("?")
    recipe = decode(parse_qs(query)["recipe"][0])
    assert way == "" and parse_qs(query)["carried"] == ["1"]
    assert (recipe.prompt, dict(recipe.composition.weights)) == ("Who goes", {first: 1.0})
    assert (recipe.base.id, recipe.sampling.seed, recipe.tab) == ("tiny/other", 9, "dose")


def test_without_a_prompt_the_page_opens_as_it_does(page):
    assert carried(page, prompt=" ") == {"name": OTHER, "way": "", "turn": 3}


def test_a_base_that_is_not_there_is_refused(page):
    with pytest.raises(gr.Error, match="no such base"):
        carried(page, name=["x"])


def asked(page, **query):
    choosing = Choosing(page.context, page.menu, Controls(page))
    return choosing.arrived(SimpleNamespace(query_params=query))


def link(page, base):
    recipe = recipe_of(page.runner.engine, "Who", page.context.default_composition, SAMPLING)
    return encode(replace(recipe, base=replace(recipe.base, id=base)))


def test_a_link_for_another_base_leads_to_its_page_and_leaves_the_controls(page):
    other = link(page, "tiny/other")
    assert asked(page, base="anything") == {"asked": "anything"}
    assert asked(page, recipe=other) == {"asked": OTHER}
    assert asked(page, recipe=link(page, page.runner.engine.base.id)) == asked(page) == gr.skip()
    for query in ({"recipe": other}, {"base": OTHER, "recipe": other}):
        restored = page.sharing.opened(Visitor(), SimpleNamespace(query_params=query))
        assert all(each == gr.skip() for each in restored)


def test_what_came_along_is_said_and_set(page):
    query = {"recipe": link(page, page.runner.engine.base.id), "carried": "1"}
    _, view, *_ = page.sharing.opened(Visitor(), SimpleNamespace(query_params=query))
    assert view["status"]["message"].startswith("Your prompt came along")


def test_a_pasted_recipe_of_another_base_says_where_to_load_it(page):
    recipe = recipe_of(page.runner.engine, "Who", page.context.default_composition, SAMPLING)
    text = recipe_yaml(replace(recipe, base=replace(recipe.base, id="tiny/other")))
    sentence = page.sharing.load(Visitor(), text)[2]
    assert "is for The other: choose that base at the top" in sentence


def test_a_base_that_has_no_recordings_says_so(page):
    opening = page.opening()
    assert not page.context.is_default and set(page.context.recordings) <= {None}
    assert "no recording of this base" in opening.live["status"]["message"]
    assert (opening.prompt, opening.fusion, opening.contribution) == ("", None, None)


def test_the_header_knows_the_way_to_the_other_bases(page):
    engine = page.runner.engine
    shown = header(engine, page.context.legend(), page.menu, False)
    assert (shown["name"], shown["root"], shown["notice"]) == (engine.base.spec.name, "../../", None)
    assert len(shown["colors"]) == 3 and not shown["recorded"]
    assert header(engine, [], None, True)["root"] is None

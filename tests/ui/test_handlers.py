"""What the page's handlers return, without a browser: presets, recipes, steps, curves."""

from __future__ import annotations

import asyncio
from contextlib import closing
from threading import Event
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest

from composer import Composition, Sampling
from composer.adapters.recipe import recipe_yaml
from composer.analysis.text_reading import read_text
from composer.core.catalog_types import Attribute
from composer.core.errors import ComposerError
from composer.engine.recipes import recipe_of
from composer.ui.components import curves
from composer.ui.components.meters import Meters
from composer.ui.components.token_reading import reading_view
from composer.ui.handlers.previewing import Latest
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from composer.ui.sharing import encode
from composer.ui.validation import Request
from composer.ui.visitors import Visitor
from tests.tools import tiny
from tests.tools.handlers import Controls, everything


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folders = tiny.three_unlike(tmp_path_factory.mktemp("llama"), "llama")
    engine = tiny.engine("llama", folders, (Attribute("mood", "", ("plain", "rslora"), ("plain", "rslora")),))
    engine.end_tokens = frozenset()
    with closing(BatchedRunner(engine, Settings())) as runner:
        made = Page(runner, Settings())
        made.blocks()
        yield made


def one_adapter(page, **values):
    """One adapter at 1, six tokens, seed 3."""
    sliders = [1.0 if slot.key == "one-plain" else 0.0 for slot in page.context.slots]
    sampling = {"max_new_tokens": 6, "seed": 3}
    return Controls(page, **{"prompt": "Who goes", "sampling": sampling, "sliders": sliders, **values})


def step(page, progress, **values):
    return everything(page.generating.step(one_adapter(page, **values), progress))


def test_steps_write_what_generate_writes(page):
    engine, progress = page.runner.engine, None
    for _ in range(4):
        view, progress = step(page, progress)
    whole = list(engine.generate("Who goes", Composition({"plain": 1}), Sampling(6, seed=3)))
    assert progress.tokens == tuple(s.token for s in whole[:4])
    # Half a character at the end is shown as it stands while the text pauses there.
    assert view["text"].rstrip("\ufffd") == whole[3].text and view["status"]["phase"] == "paused"
    assert [column["i"] for column in view["columns"]] == [0, 1, 2, 3] and view["room"] == 6
    assert view["status"]["per_second"] == 0


def test_a_step_takes_the_sliders_as_they_are_now(page):
    _, progress = step(page, None)
    _, after = step(page, progress, sliders=[0.0] * len(page.context.slots))
    assert after.tokens[:1] == progress.tokens and len(after.tokens) == 2
    assert after.steps[0].contribution.any() and not after.steps[1].contribution.any()


def test_another_prompt_begins_anew(page):
    _, progress = step(page, None)
    view, after = step(page, progress, prompt="Other")
    assert len(after.tokens) == 1 and view["prompt"] == "Other"


def test_back_takes_a_token_away_until_there_is_none(page):
    _, progress = step(page, None)
    _, progress = step(page, progress)
    view, progress = page.generating.back(progress)
    assert view["count"] == len(progress.tokens) == 1
    view, progress = page.generating.back(progress)
    assert view["count"] == 0 and view["text"] == ""
    view, kept = page.generating.back(progress)
    assert "no token to take back" in view["status"]["message"] and kept == gr.skip()


def test_the_words_that_follow_are_those_after_the_text_so_far(page):
    _, progress = step(page, None)
    panel = everything(page.generating.following(one_adapter(page), Latest(), progress))
    alone = page.runner.next_tokens(
        Request("Who goes", Composition({"plain": 1}), Sampling(), progress.tokens), page.context.names()
    )
    assert panel["title"] == "Next word"
    assert [word["composed"] for word in panel["words"]] == pytest.approx(alone.composed, abs=1e-4)


def held(page) -> Event:
    """Keeps the decoding thread busy until it is set."""
    free = Event()
    page.runner.scheduler.submit_task(lambda: free.wait(20))
    return free


def test_a_newer_preview_withdraws_an_older_one(page):
    async def moved_twice():
        free, latest = held(page), Latest()
        older = asyncio.ensure_future(page.previewing.preview(one_adapter(page), latest))
        await asyncio.wait({older}, timeout=0.05)
        newer = asyncio.ensure_future(page.previewing.preview(one_adapter(page, prompt="Other"), latest))
        withdrawn = await older
        free.set()
        shown = await newer
        return withdrawn, shown, await page.previewing.rest(latest)

    withdrawn, shown, rest = everything(moved_twice())
    assert withdrawn == gr.skip()
    assert shown["words"] or rest["words"]


def test_under_load_the_panel_says_that_it_waits_and_then_has_its_words(page):
    async def under_load():
        free, latest = held(page), Latest()
        first = await page.previewing.preview(one_adapter(page), latest)
        free.set()
        return first, await page.previewing.rest(latest), await page.previewing.rest(latest)

    first, rest, nothing = everything(under_load())
    assert "come first" in first["message"] and first["keep"]
    assert len(rest["words"]) == 10 and nothing == gr.skip()


# --- recipes and links ---------------------------------------------------------------------------


ASKED = Composition(
    {"plain": 0.5, "rslora": -1}, "kl", curves={"plain": [0, 1]}, schedule={"rslora": [2, 9]}, blend=0.5
)


def recipe(page, tab="compare"):
    return recipe_of(page.runner.engine, "Who", ASKED, Sampling(9, seed=5), tab)


def restored(page, updates):
    """The controls of ComposeTab.restored by what they are."""
    slots = page.context.slots
    prompt, method, *rest = updates
    return prompt, method, rest[-len(slots) :], rest[-len(slots) - 1], rest[-len(slots) - 2]


def test_a_recipe_that_is_pasted_puts_everything_back(page):
    tab, view, sentence, *controls = page.sharing.load(Visitor(), recipe_yaml(recipe(page)))
    prompt, method, sliders, painter, per_adapter = restored(page, controls)
    assert (prompt, method, per_adapter) == ("Who", "kl", True) and tab["selected"] == "compare"
    assert sentence == "The recipe is loaded." == view["status"]["message"]
    assert painter == {"curves": {"plain": [0, 1]}, "schedule": {"rslora": [2, 9]}}
    values = {slot.key: slider["value"] for slot, slider in zip(page.context.slots, sliders, strict=True)}
    assert values["one-plain"] == 0.5 and values["one-rslora"] == -1


def opened(page, query):
    return page.sharing.opened(Visitor(), SimpleNamespace(query_params=query))


def test_a_link_that_is_opened_puts_everything_back(page):
    tab, view, _, *controls = opened(page, {"recipe": encode(recipe(page, "compose"))})
    assert restored(page, controls)[0] == "Who" and tab["selected"] == "compose"
    assert "Press Generate" in view["status"]["message"]


def test_a_page_that_is_opened_without_a_link_stays_as_it_is(page):
    assert all(update == gr.skip() for update in opened(page, {"__theme": "dark"}))


@pytest.mark.parametrize("query", ["", "x", "e30", "W10", "%00", "A" * 9000, "bnVsbA"])
def test_a_damaged_link_opens_the_page_as_usual_with_a_sentence(page, query):
    tab, view, _, *controls = opened(page, {"recipe": query})
    assert view["status"]["phase"] == "error" and view["status"]["message"].endswith(".")
    assert all(update == gr.skip() for update in (tab, *controls))


def test_a_link_to_adapters_that_are_not_here_says_which(page):
    from dataclasses import replace

    other = replace(recipe(page), composition=Composition({"mine": 1}), adapters={})
    _, view, _, *controls = opened(page, {"recipe": encode(other)})
    assert "mine" in view["status"]["message"] and controls[0] == gr.skip()


@pytest.mark.parametrize("text", ["", None, "[", "version: 7", "x" * 200_000])
def test_a_pasted_text_that_is_no_recipe_changes_nothing(page, text):
    tab, view, sentence, *controls = page.sharing.load(Visitor(), text)
    assert sentence.endswith(".") and all(update == gr.skip() for update in (tab, view, *controls))


def test_an_uploaded_file_is_loaded_or_refused(page, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(recipe_yaml(recipe(page)), "utf-8")
    text, _, _, sentence, *controls = page.sharing.upload(Visitor(), str(file))
    assert text.startswith("version: 1") and controls[0] == "Who" and "loaded" in sentence
    file.write_bytes(b"\xff\xfe")
    *_, sentence = page.sharing.upload(Visitor(), str(file))[:4]
    assert "no YAML text" in sentence
    assert "Choose" in page.sharing.upload(Visitor(), None)[3]


def test_what_is_shared_is_what_is_restored(page):
    _, link, text, message = page.sharing.make(one_adapter(page, method="kl"), "compose")
    assert message == "" and text.startswith("version: 1")
    _, _, _, *controls = opened(page, {"recipe": link["link"].removeprefix("?recipe=")})
    assert controls[:2] == ["Who goes", "kl"]


# --- presets, curves, meters ---------------------------------------------------------------------


@pytest.mark.parametrize("bad", [None, [], "x", {}, {"curves": 1, "schedule": {}}, {"curves": {}}])
def test_broken_curves_are_a_sentence(bad):
    with pytest.raises(ComposerError, match="reload"):
        curves.read(bad, ("plain",))


def test_flat_curves_whole_spans_and_unknown_adapters_are_left_out():
    given = {
        "curves": {"plain": [1, 1.0], "rslora": [0, 1], "gone": [0, 1]},
        "schedule": {"plain": [1, None], "rslora": [2, None]},
    }
    assert curves.read(given, ("plain", "rslora")) == {
        "curves": {"rslora": [0, 1]},
        "schedule": {"rslora": [2, None]},
    }


def test_a_curve_from_kl_is_its_share_times_the_adapters():
    alpha = {"a": np.linspace(0, 1, 30), "b": 1 - np.linspace(0, 1, 30)}
    made = curves.alpha_curves(alpha)
    assert made["a"][0] == 0 and made["a"][-1] == 2 and len(made["a"]) == curves.ANCHORS
    np.testing.assert_allclose(np.array(made["a"]) + made["b"], 2, atol=0.02)


def test_meters_are_the_bundled_judges_that_fit():
    names = ("positive", "negative", "world", "sports", "business", "sci-tech")
    legend = [{"name": name, "label": name.capitalize(), "color": "#123456"} for name in names]
    text = "The team won the match last night. What a wonderful game, I loved it."
    mood, topic = Meters.load(legend)(text)
    assert (mood["label"], topic["label"]) == ("Positive", "Sports")
    assert mood["share"] > 0.5 and "80% of the time" in mood["hint"]
    assert Meters.load(legend)("Two words") == []
    assert (
        Meters.load(legend[:2])(text)[0]["label"] == "Positive" and len(Meters.load(legend[:2]).judges) == 1
    )
    assert Meters.load([]).judges == ()


def test_a_reading_for_the_browser_names_colours_and_numbers(page):
    engine = page.runner.engine
    composition = Composition({"plain": 1, "rslora": 0.5})
    tokens = [step.token for step in engine.generate("Who", composition, Sampling(4, seed=1))]
    reading = read_text(engine, "Who", tokens, composition)
    shown = reading_view(reading, page.context.by_name(), {"plain": 1})
    assert [each["used"] for each in shown["adapters"]] == [True, False]
    assert np.array(shown["push"]).shape == (4, 2) and len(shown["words"][0]) == 10
    assert {word[3] for position in shown["words"] for word in position} <= {0, -1}
    np.testing.assert_allclose(shown["base"], reading.attribution.base, atol=1e-3)

"""Several bases in one server: what is offered, loaded once, unloaded when idle, and answered over HTTP."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from threading import Event

import gradio as gr
import pytest
from gradio.routes import App
from starlette.applications import Starlette
from starlette.testclient import TestClient

from composer import Composition, Sampling
from composer.adapters.recipe import Recipe, Source
from composer.core.catalog_types import AdapterSpec, BaseSpec, Catalog, Notice, Wheel
from composer.core.errors import ComposerError
from composer.ui.bases import offers, opening
from composer.ui.bases.loads import LoadedBases, Stage
from composer.ui.bases.menu import BaseMenu
from composer.ui.bases.serving import BaseRoutes, logged_in
from composer.ui.handlers.choosing import asked_by, restricted
from composer.ui.runners.budgets import Budgets
from composer.ui.runners.use_count import UseCount, counted
from composer.ui.settings import Settings
from composer.ui.sharing import encode

PATIENCE = 60


class Served:
    """Stands for what serves a base: in use or not, closed or not."""

    def __init__(self):
        self.use, self.closed = UseCount(), False

    def close_if_idle(self):
        return self.use.close_if_idle()

    def close(self):
        self.closed = True


def ready(bases, name):
    """Ask for a base and wait for what comes of it: its sentence where it failed."""
    bases.start(name)
    load = bases.latest(name)
    assert load.wait(PATIENCE)
    return load.fault


def nothing(name, tell, leaving):
    pass


# --- use -----------------------------------------------------------------------------------------


def test_a_runner_is_closed_only_while_nobody_is_inside_and_lets_nobody_in_afterwards():
    class Runner:
        def __init__(self):
            self.use = UseCount()

        @counted
        def run(self):
            yield 1
            yield 2

        @counted
        def fuse(self):
            return 3

    runner = Runner()
    text = runner.run()
    assert next(text) == 1
    assert not runner.use.close_if_idle(), "a text is in progress"
    assert runner.fuse() == 3
    text.close()
    assert runner.use.close_if_idle()
    for call in (runner.fuse, lambda: next(runner.run())):
        with pytest.raises(ComposerError, match="reload the page"):
            call()


# --- loading -------------------------------------------------------------------------------------


def test_a_base_is_loaded_once_however_many_ask():
    begun, go_on, loaded = Event(), Event(), []

    def load(name, tell):
        loaded.append(name)
        tell("Loading", 0.5)
        begun.set()
        assert go_on.wait(PATIENCE)
        return Served()

    bases = LoadedBases(1, nothing, load)
    bases.start("b")
    assert begun.wait(PATIENCE)
    for _ in range(3):
        bases.start("b")
    assert bases.latest("b").stage == Stage("Loading", 0.5)
    assert bases.get("b") is None
    go_on.set()
    assert ready(bases, "b") == "" and loaded == ["b"] and bases.names == ("b",)


def test_the_least_recently_used_idle_base_makes_room():
    bases = LoadedBases(2, nothing, lambda name, tell: Served())
    assert [ready(bases, name) for name in "bc"] == ["", ""]
    b, c = bases.get("b"), bases.get("c")
    bases.get("b")
    assert ready(bases, "d") == ""
    assert (bases.names, c.closed, b.closed) == (("b", "d"), True, False)
    with b.use:
        assert ready(bases, "c") == ""
    assert bases.names == ("b", "c") and not b.closed, "a base with a text in progress was unloaded"


def test_texts_on_every_base_are_a_sentence_and_nothing_is_unloaded():
    bases = LoadedBases(1, nothing, lambda name, tell: Served())
    ready(bases, "b")
    with bases.get("b").use:
        assert "texts are being written on each" in ready(bases, "c")
        assert bases.names == ("b",) and not bases.get("b").closed
    assert ready(bases, "c") == "" and bases.names == ("c",)


def test_a_base_is_prepared_with_a_view_to_the_one_that_will_leave():
    seen = []
    bases = LoadedBases(1, lambda name, tell, leaving: seen.append(leaving), lambda name, tell: Served())
    ready(bases, "b")
    first = bases.get("b")
    ready(bases, "c")
    assert seen == [None, first]


@pytest.mark.parametrize("fault", [ComposerError("The Hub does not answer."), MemoryError(), KeyError("x")])
def test_what_fails_before_memory_is_needed_unloads_nothing_and_can_be_tried_again(fault):
    failing = {"c"}

    def prepare(name, tell, leaving):
        if name in failing:
            raise fault

    bases = LoadedBases(1, prepare, lambda name, tell: Served())
    ready(bases, "b")
    sentence = ready(bases, "c")
    assert sentence.count(".") >= 1 and "\n" not in sentence
    assert bases.names == ("b",) and not bases.get("b").closed
    failing.clear()
    assert ready(bases, "c") == ""


def test_what_is_not_here_is_fetched_before_it_is_looked_for(monkeypatch, tmp_path):
    told, fetched = [], []
    monkeypatch.setattr(opening, "locate", lambda spec: (tmp_path, "wheel"))

    def fetch(spec, progress):
        fetched.append(spec.name)
        progress("Fetching part 1 of 2", 0.5)

    opener = opening.Opener(Catalog(".", "b", {"b": NOWHERE}), Settings(), None, Budgets(), fetch=fetch)
    opener.prepare("b", lambda words, share: told.append((words, share)), None)
    assert fetched == ["b"] and told == [("Fetching the weights", None), ("Fetching part 1 of 2", 0.5)]


def test_a_machine_without_the_memory_says_so_before_anything_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(bytes(1_000_000))
    monkeypatch.setattr(opening.torch.cuda, "is_available", lambda: False)
    needed = opening.memory_needed(NOWHERE, tmp_path)
    assert needed == 1e6 * opening.MEMORY_PER_BYTE["none"] + opening.MEMORY_BESIDE
    monkeypatch.setattr(opening, "free_memory", lambda device: 1e8)
    with pytest.raises(ComposerError, match=r"needs about 0\.3 GB of memory, and 0\.1 GB are free"):
        opening.check_memory(needed, leaving=0)
    opening.check_memory(needed, leaving=needed)


def test_the_memory_that_is_free_is_a_number_of_bytes():
    assert 1e6 < opening.free_memory("cpu") < 1e15


def test_work_at_low_priority_leaves_this_thread_s_priority():
    import os

    before = os.nice(0)
    assert opening.at_low_priority(lambda: 5) == 5
    assert os.nice(0) == before


# --- offers --------------------------------------------------------------------------------------

NOWHERE = BaseSpec("b", "nobody/nothing", verified=True, wheel=Wheel("no-such-wheel", "1", "x.gguf"))


def test_only_bases_that_can_be_had_are_offered(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    here = replace(NOWHERE, folder=str(tmp_path), verified=False)
    assert offers.offer(here) == offers.BaseOffer(here, True)
    assert offers.offer(NOWHERE) == offers.BaseOffer(NOWHERE, False)
    assert "--base b" in offers.offer(replace(NOWHERE, verified=False)).reason
    for folder in (str(tmp_path / "gone"), "a\0b", "~nobody-like-that/x"):
        assert "folder" in offers.offer(replace(NOWHERE, folder=folder)).reason


def test_a_base_whose_adapters_are_all_missing_cannot_be_chosen(tmp_path):
    gone, there = (AdapterSpec(name, str(tmp_path / name)) for name in ("gone", "there"))
    (tmp_path / "there").mkdir()
    here = replace(NOWHERE, folder=str(tmp_path), adapters=(gone,))
    (tmp_path / "config.json").write_text("{}")
    assert "adapters" in offers.offer(here).reason
    for adapters in ((), (gone, there), (gone, AdapterSpec("far", "owner/name"))):
        assert not offers.offer(replace(here, adapters=adapters)).reason


def test_facts_and_notice_are_the_catalog_s():
    spec = replace(NOWHERE, quantization="nf4", adapters=(AdapterSpec("x", "x"),))
    assert offers.offer(spec).facts == "nf4 · 1 adapter"
    assert offers.offer(spec).notice is None
    terms = Notice("Terms.", "https://example.org/terms")
    assert offers.offer(replace(spec, notice=terms)).notice == terms


# --- what comes along ----------------------------------------------------------------------------


def test_adapters_that_the_other_base_has_not_stay_behind():
    mix = Composition(
        {"x": 1.0, "y": 2.0}, "kl", curves={"y": [0, 1]}, schedule={"x": [1, 5]}, strength=1.5, blend=0.5
    )
    kept = restricted(mix, replace(NOWHERE, adapters=(AdapterSpec("x", "x"),)))
    assert dict(kept.weights) == {"x": 1.0} and not kept.curves and set(kept.schedule) == {"x"}
    assert (kept.method, kept.strength, kept.blend) == ("kl", 1.5, 0.5)


def test_a_link_for_another_base_of_the_catalog_is_known():
    bases = {name: BaseSpec(name, f"owner/{name[0]}") for name in ("a", "a-nf4", "b")}
    menu = BaseMenu(Catalog(".", "a", bases), home="a", here="a-nf4")

    def link(hub_id):
        return encode(Recipe(Source(hub_id), "Who", Composition(), Sampling()))

    assert asked_by(link("owner/b"), menu) == bases["b"]
    assert asked_by(link("owner/a"), menu) is None, "a base of the same weights opens it too"
    for other in (link("owner/c"), link(None), "damaged", None):
        assert asked_by(other, menu) is None
    assert (menu.root, menu.path("a"), menu.path("b")) == ("../../", "", "base/b/")


# --- over HTTP -----------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    """A client of a server with the bases home (loaded), b (here), terms (to be fetched) and far."""
    (tmp_path / "config.json").write_text("{}")
    home = replace(NOWHERE, name="home", folder=str(tmp_path), label="Home")
    bases = {
        "home": home,
        "b": replace(home, name="b"),
        "terms": with_notice(BaseSpec("terms", "nobody/nothing", verified=True)),
        "far": replace(NOWHERE, name="far", verified=False),
    }

    async def page(scope, receive, send):
        from starlette.responses import PlainTextResponse

        await PlainTextResponse(f"{scope['path']}?{scope['query_string'].decode()}")(scope, receive, send)

    def load(name, tell):
        made = Served()
        made.app = page
        return made

    loaded = LoadedBases(1, nothing, load)
    catalog = Catalog(".", "home", bases)
    app = Starlette(routes=BaseRoutes(catalog, "home", loaded).routes)
    app.state.catalog = catalog
    with closing(loaded):
        yield TestClient(app, follow_redirects=False), loaded


def with_notice(spec):
    object.__setattr__(spec, "notice", Notice("Terms of Gemma.", "https://example.org/terms"))
    return spec


def listed(answer):
    return {each["name"]: each for each in answer.json()["bases"]}


def test_the_list_says_what_can_be_chosen_and_why_not_the_rest(served):
    client, _ = served
    found = listed(client.get("/bases"))
    assert found["home"]["loaded"] and found["home"]["path"] == ""
    assert found["b"] == {
        "name": "b",
        "label": "Home",
        "facts": "0 adapters",
        "path": "base/b/",
        "here": True,
        "loaded": False,
        "reason": "",
        "notice": None,
    }
    assert found["terms"]["notice"] == {"text": "Terms of Gemma.", "url": "https://example.org/terms"}
    assert "Nobody of this project" in found["far"]["reason"]


def test_a_base_is_loaded_when_it_is_asked_for_and_its_page_answers(served):
    client, loaded = served
    assert client.get("/base/b/config").status_code == 404
    assert client.post("/bases", json={"name": "b"}).status_code == 200
    assert loaded.latest("b").wait(PATIENCE)
    assert listed(client.get("/bases"))["b"]["loaded"]
    assert client.get("/base/b/config?x=1").text == "/config?x=1"
    assert client.get("/base/b/").text == "/?"


def test_a_base_whose_load_ends_while_the_list_is_written_is_loaded(served, monkeypatch):
    client, loaded = served
    latest = loaded.latest

    def ends_now(name):
        loaded.start("b")
        assert latest("b").wait(PATIENCE)
        return latest(name)

    monkeypatch.setattr(loaded, "latest", ends_now)
    entry = listed(client.get("/bases"))["b"]
    assert entry["loaded"] and "stage" not in entry and "fault" not in entry


def test_a_page_that_is_not_loaded_leads_to_the_one_that_loads_it_with_its_link(served):
    client, loaded = served
    assert client.get("/base/b/?recipe=abc").headers["location"] == "../../?base=b&recipe=abc"
    assert client.get("/base/b?recipe=abc").headers["location"] == "../?base=b&recipe=abc"
    assert client.get("/base/home/?recipe=abc").headers["location"] == "../../?recipe=abc"
    assert client.get("/base/home/").headers["location"] == "../../"
    loaded.start("b")
    assert loaded.latest("b").wait(PATIENCE)
    assert client.get("/base/b").headers["location"] == "b/"


@pytest.mark.parametrize("path", ["/base/nobody/", "/base/b/gradio_api/info", "/base//", "/base/%2e%2e/x"])
def test_what_is_not_loaded_is_a_sentence_for_programs(served, path):
    client, _ = served
    answer = client.get(path)
    assert answer.status_code == 404 and "not loaded" in answer.json()["detail"]


def test_a_notice_is_agreed_to_before_its_base_is_fetched(served):
    client, loaded = served
    for refused in ({"name": "terms"}, {"name": "terms", "agreed": "yes"}):
        answer = client.post("/bases", json=refused)
        assert answer.status_code == 400 and "Terms of Gemma." in answer.json()["detail"]
    assert loaded.latest("terms") is None
    assert client.post("/bases", json={"name": "terms", "agreed": True}).status_code == 200
    assert loaded.latest("terms").wait(PATIENCE)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "GET /bases"),
        (b"[]", "GET /bases"),
        (b'{"name": 7}', "GET /bases"),
        (b'{"name": "' + b"x" * 2000 + b'"}', "GET /bases"),
        (b"[" * 900, "GET /bases"),
        (b'{"name": "hom"}', "Did you mean home?"),
        (b'{"name": "far"}', "Nobody of this project"),
    ],
)
def test_a_request_that_cannot_be_met_is_a_sentence(served, body, words):
    answer = served[0].post("/bases", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and words in answer.json()["detail"]


def test_another_site_s_form_loads_nothing(served):
    client, loaded = served
    answer = client.post("/bases", content=b'{"name": "b"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 400 and loaded.latest("b") is None


def test_with_a_login_the_other_bases_are_closed_too_until_somebody_has_logged_in(served):
    client, bases = served
    ready(bases, "b")
    with gr.Blocks() as blocks:
        gr.Markdown("Hello")
    blocks.auth, blocks.auth_message = [("class", "word")], None
    home = App.create_app(blocks)
    home.router.routes[:0] = BaseRoutes(client.app.state.catalog, "home", bases, logged_in(home)).routes
    visitor = TestClient(home, follow_redirects=False)

    assert visitor.get("/bases").status_code == 401
    assert visitor.post("/bases", json={"name": "b"}).status_code == 401
    assert visitor.get("/base/b/").headers["location"] == "../../"
    assert visitor.get("/base/b/config").status_code == 401
    assert visitor.post("/base/b/gradio_api/call/generate", json={}).status_code == 401
    assert visitor.post("/login", data={"username": "class", "password": "guess"}).status_code == 400
    assert visitor.get("/base/b/config").status_code == 401

    assert visitor.post("/login", data={"username": "class", "password": "word"}).status_code == 200
    assert visitor.get("/base/b/").text == "/?"
    assert listed(visitor.get("/bases"))["b"]["loaded"]

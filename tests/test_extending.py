"""What CONTRIBUTING.md says of other packages: each kind of addition, made from outside this one."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr
import numpy as np
import plotly.graph_objects as go
import pytest

from composer.core.composition import Composition
from composer.evaluation.judges.ngram_judge import HeldOut
from composer.evaluation.judges.panel import evaluate_panel
from composer.evaluation.texts import Text
from composer.methods import METHODS, GateInputs, gate_method
from composer.methods.registry import MethodRegistry
from composer.model import architectures
from composer.model.architectures import LLAMA, Architecture
from composer.model.runtime.runner import TransformersRunner
from composer.model.runtime.select import select_runner
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from composer.ui.tabs import ExtraTab
from tests.tools import tiny


@pytest.fixture
def install(monkeypatch):
    """Has a package offer an object under a group of entry points."""
    offered: dict[str, list] = {}
    monkeypatch.setattr("composer.core.plugins.entry_points", lambda group: offered.get(group, []))

    def offer(group: str, name: str, found: object) -> None:
        offered.setdefault(group, []).append(SimpleNamespace(name=name, load=lambda: found))

    return offer


@pytest.fixture
def page(tmp_path):
    engine = tiny.engine("llama", {"a": tiny.adapter(tmp_path / "a", "llama", 1)})
    runner = BatchedRunner(engine, Settings())
    yield Page(runner, Settings())
    runner.close()


def norms_figure(norms: np.ndarray) -> go.Figure:
    """A plot: values in, figure out."""
    return go.Figure(go.Bar(y=norms))


def labels(page: Page) -> list[str]:
    blocks = page.blocks().config["components"]
    return [each["props"].get("label") or each["props"].get("value") for each in blocks]


def test_a_tab_with_a_plot(install, page):
    def build(runner, settings):
        norms = [sum(own.values()) for own in runner.engine.snapshot.bank.norms.values()]
        gr.Plot(norms_figure(np.array(norms)), label="Norms")

    install("composer.tabs", "norms", ExtraTab("Norms of the adapters", build))
    shown = labels(page)
    assert "Norms of the adapters" in shown and "Norms" in shown


def test_a_tab_that_fails_says_so_and_the_page_stays(install, page, caplog):
    install("composer.tabs", "broken", ExtraTab("Broken", lambda runner, settings: 1 / 0))
    shown = labels(page)
    assert "Broken" in shown and "Compose" in shown
    assert any("could not be built" in str(each) for each in shown) and "Traceback" in caplog.text


class LengthJudge:
    """A judge: a continuation with more than three words is long."""

    name, attribute, labels = "word count", "length", ("long", "short")
    scores = (HeldOut("mine", 10, 1.0),)

    def __call__(self, texts):
        return ["long" if len(text.split()) > 3 else "short" for text in texts]


def test_a_judge():
    texts = [Text("k", "long", "One", 0, words, None) for words in (" two", " two three four five")]
    panel = evaluate_panel(texts, [LengthJudge()])
    assert panel.attribute == "length" and panel.opinions[0].shares == {"word count": 0.5}


@gate_method(
    name="halved",
    label="Halved sum",
    help="Half of the sum.",
    formula="g_i = w_i / 2",
    source="a test",
)
def halved(inputs: GateInputs) -> np.ndarray:
    return np.tile(inputs.weights / 2, (inputs.layers, 1))


def test_a_method(install, monkeypatch, page):
    install("composer.methods", "halved", halved)
    registry = MethodRegistry([METHODS["sum"]])
    assert list(registry) == ["sum", "halved"]
    monkeypatch.setattr("composer.engine.resolve.METHODS", registry)
    engine = page.runner.engine
    got = engine.next_token_logits("Hello", Composition({"a": 1.0}, "halved"))
    np.testing.assert_allclose(got, engine.next_token_logits("Hello", Composition({"a": 0.5})), atol=1e-5)


@pytest.fixture
def architecture_cache():
    architectures.architectures.cache_clear()
    yield
    architectures.architectures.cache_clear()


def test_a_base_family(install, architecture_cache):
    made = []

    class OwnRunner(TransformersRunner):
        pass

    def make(model, weights):
        made.append(weights)
        return OwnRunner(model)

    fits = lambda model: model.model.config.model_type == "gpt_neox"  # noqa: E731
    install("composer.architectures", "neox", Architecture("gpt_neox", fits, make))
    engine = tiny.engine("gpt_neox", {})
    assert made and isinstance(select_runner(engine.model), OwnRunner)
    assert len(engine.next_token_logits("Hello", Composition())) > 0
    assert architectures.architectures()[0] is LLAMA

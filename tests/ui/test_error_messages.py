"""A fault behind the page or an endpoint: a sentence to the visitor, the rest to the log, and it goes on."""

from __future__ import annotations

import errno

import gradio as gr
import pytest
import torch

from composer.analysis.explain import explain
from composer.analysis.next_token import NextTokenReader
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Fusion
from composer.engine.export import export
from composer.ui.api import make_endpoints
from composer.ui.handlers.previewing import Latest
from composer.ui.page import Page
from composer.ui.runners.base import Runner, never
from composer.ui.runners.zero_gpu import ZeroGpuRunner
from composer.ui.settings import Settings
from composer.ui.validation import Request
from composer.ui.visitors import Visitor
from tests.tools import tiny
from tests.tools.handlers import Controls, everything

SECRET = "/srv/private/weights.bin"
FAULTS = [
    (RuntimeError(f"a tensor of {SECRET}"), "RuntimeError"),
    (OSError(errno.ENOSPC, "No space left on device", SECRET), "disk is full"),
    (PermissionError(errno.EACCES, "Permission denied", SECRET), "ermission"),
    (MemoryError(), "memory"),
    (torch.OutOfMemoryError(f"CUDA out of memory {SECRET}"), "memory"),
    (KeyError(SECRET), "KeyError"),
    (UnicodeEncodeError("ascii", SECRET, 0, 1, SECRET), "UnicodeEncodeError"),
    (ComposerError("Shorten the prompt."), "Shorten the prompt."),
]
faults = pytest.mark.parametrize(("fault", "words"), FAULTS, ids=lambda each: type(each).__name__)


class Broken(Runner):
    """Raises `fault` for whatever it is asked, and works when there is none."""

    def __init__(self, engine):
        super().__init__(engine)
        self.fault: Exception | None = None

    def next_tokens(self, request, names, left=never):
        if self.fault:
            raise self.fault
        return NextTokenReader(self.engine)(request.prompt, request.composition, written=request.written)

    def explain(self, request, names):
        yield "Reading"
        if self.fault:
            raise self.fault
        yield explain(self.engine, request.prompt, request.composition, request.sampling)

    def export(self, request, names, folder, rank):
        if self.fault:
            raise self.fault
        return export(self.engine, request.composition, folder, request.prompt, rank).kept

    def run_many(self, requests, names, background=False):
        for index, request in enumerate(requests):
            if self.fault:
                yield index, self.fault
                continue
            for step in self.engine.generate(request.prompt, request.composition, request.sampling):
                yield index, step

    def perplexities(self, texts):
        return [1.0] * len(texts)

    def choice_scores(self, request, continuations):
        return [-1.0] * len(continuations)

    def run(self, request, names, read=True):
        fusion = self.engine.fusion(request.prompt, names, composition=request.composition)
        yield fusion
        if self.fault:
            raise self.fault
        yield from self.engine.generate(
            request.prompt,
            request.composition,
            request.sampling,
            fusion=fusion,
            written=request.written,
        )

    def fuse(self, prompt, names, norm, tokens) -> Fusion:
        if self.fault:
            raise self.fault
        return self.engine.fusion(prompt, names, norm, tokens)

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    adapters = {name: tiny.adapter(folder / name, "llama", seed, r=2) for seed, name in enumerate("ab")}
    return tiny.engine("llama", adapters)


@pytest.fixture
def runner(engine):
    return Broken(engine)


@pytest.fixture
def page(runner):
    return Page(runner, Settings(folders=True))


def generated(page):
    """What the page shows one after the other."""
    return everything(page.generating.generate(Controls(page)))


def is_kept_private(told: str, fault: Exception, log: str) -> None:
    assert SECRET not in told and "Traceback" not in told and "\n" not in told
    # What was foreseen needs no line in the log; of the rest it has everything.
    assert ("Traceback" in log) == (not isinstance(fault, ComposerError))


@faults
def test_a_generation_on_the_page_ends_with_a_sentence(fault, words, page, runner, caplog):
    runner.fault = fault
    live, *_, progress, stop, _ = generated(page)[-1]
    told = live["status"]["message"]
    assert live["status"]["phase"] == "error" and words in told
    assert progress is None and stop["interactive"] is False
    is_kept_private(told, fault, caplog.text)
    runner.fault = None
    assert generated(page)[-1][0]["status"]["phase"] == "done"


@faults
@pytest.mark.parametrize("action", ["check", "download"])
def test_an_adapter_that_cannot_be_had_is_a_sentence(
    fault, words, action, page, runner, caplog, tmp_path, monkeypatch
):
    def fail(*_):
        raise fault

    folder = str(tiny.adapter(tmp_path / "more", "llama", 5, r=2))
    visitor, checked = Visitor(), everything(page.adding.find(folder))[-1][1]
    monkeypatch.setattr(runner.engine, action, fail)
    if action == "check":
        (shown, _) = everything(page.adding.find(folder))[-1]
    else:
        shown, *others = everything(page.adding.add(checked, visitor))[-1]
        assert all(each == gr.skip() for each in others)
    assert shown["error"] and words in shown["message"] and visitor.own == ()
    is_kept_private(shown["message"], fault, caplog.text)


@faults
def test_next_words_that_fail_are_a_sentence(fault, words, page, runner, caplog):
    runner.fault = fault
    panel = everything(page.previewing.preview(Controls(page), Latest()))
    assert words in panel["message"] and panel["words"] == []
    is_kept_private(panel["message"], fault, caplog.text)
    runner.fault = None
    panel = everything(page.previewing.preview(Controls(page), Latest()))
    assert len(panel["words"]) == 10


@faults
def test_a_step_that_fails_is_a_sentence_and_takes_nothing_away(fault, words, page, runner, caplog):
    def step(progress):
        return everything(page.generating.step(Controls(page), progress))

    _, progress = step(None)
    assert len(progress.steps) == 1
    runner.fault = fault
    live, kept = step(progress)
    assert words in live["status"]["message"] and kept == gr.skip()
    is_kept_private(live["status"]["message"], fault, caplog.text)
    runner.fault = None
    assert len(step(progress)[1].steps) == 2


@faults
def test_a_measurement_that_fails_is_a_sentence(fault, words, page, runner, caplog):
    runner.fault = fault
    results, stop = everything(page.explaining.measure(Controls(page), None))[-1]
    assert results["error"] and words in results["message"] and stop["interactive"] is False
    is_kept_private(results["message"], fault, caplog.text)
    runner.fault = None
    assert everything(page.explaining.measure(Controls(page), None))[-1][0]["findings"]


@faults
def test_a_column_that_fails_says_so_beside_the_others(fault, words, page, runner, caplog):
    runner.fault = fault
    asked = (Controls(page), "The", 3, 1, ["sum"], [])
    results, _, stop = everything(page.comparing.compare(*asked))[-1]
    assert all(words in column["fault"] for column in results["columns"])
    assert stop["interactive"] is False
    is_kept_private(results["columns"][0]["fault"], fault, caplog.text)
    runner.fault = None
    results, *_ = everything(page.comparing.compare(*asked))[-1]
    assert not any(column["fault"] for column in results["columns"]) and results["columns"][0]["text"]


@faults
@pytest.mark.parametrize("endpoint", ["generate", "fuse"])
def test_a_call_ends_with_a_sentence(endpoint, fault, words, runner, caplog):
    runner.fault = fault
    page = Page(runner, Settings())
    calls = make_endpoints(page.context, page.dosing)

    def call():
        if endpoint == "fuse":
            return everything(calls["fuse"]("The"))
        return everything(calls["generate"]("The", {"a": 1}, max_new_tokens=2))

    with pytest.raises(gr.Error) as told:
        call()
    assert words in told.value.message
    assert told.value.print_exception is False
    is_kept_private(told.value.message, fault, caplog.text)
    runner.fault = None
    assert call()


@faults
def test_a_fault_crosses_from_a_gpu_worker_as_its_sentence(fault, words, engine, monkeypatch, caplog):
    def fail(*args, **options):
        raise fault

    monkeypatch.setattr(engine, "fusion", fail)
    forked = ZeroGpuRunner(engine, lambda work: work)
    request = Request("The", Composition(), Sampling(2))
    with pytest.raises(gr.Error) as told:
        list(forked.run(request, engine.names))
    assert words in told.value.message
    is_kept_private(told.value.message, fault, caplog.text)

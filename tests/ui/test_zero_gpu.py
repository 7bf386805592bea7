"""ZeroGPU's way from a request to the engine and back."""

import pickle
from contextlib import closing
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest

from composer.core.catalog_types import FitReport
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.engine.added_adapters import AddedAdapter
from composer.evaluation.best_of_n import choice_scores
from composer.ui.runners.zero_gpu import ZeroGpuRunner
from composer.ui.validation import Request
from composer.ui.visitors import Own
from tests.tools import tiny

FUSION = Fusion(np.ones((2, 1), np.float32), np.ones((2, 1), np.float32))
REQUEST = Request("The", Composition({"a": 0.5}, "kl", blend=0.25), Sampling(3, seed=7), written=(5,))

EXTRA = FitReport("owner/extra", "owner/extra", ok=True, revision="c" * 40)
OWN = Own(0, AddedAdapter("owner/extra", "owner/extra", "c" * 40, EXTRA))


def here(work):
    return work


def steps(number):
    return [Step(0, i, i, "x", "x" * (i + 1), np.zeros((2, 1), np.float32), 0.1 * i) for i in range(number)]


class RecordingEngine:
    """Answers like the engine and keeps what it was asked, so that the crossing itself can be checked."""

    def __init__(self):
        self.names = ("a",)
        self.asked = []
        self.closed = False

    def fusion(self, prompt, names, *, composition):
        if prompt == "bad":
            raise ComposerError("The prompt is bad; write another.")
        self.asked.append(("fusion", prompt, composition, names))
        return FUSION

    def generate(self, prompt, composition, sampling, fusion, written):
        self.asked.append(("generate", prompt, composition, sampling, fusion, written))
        try:
            yield from steps(sampling.max_new_tokens)
        finally:
            self.closed = True

    def resolve(self, composition, among):
        return composition

    def download(self, source, revision=None, fetch=None):
        self.asked.append(("download", source, revision))
        return FitReport(source, source, ok=True, revision="c" * 40)

    def add_adapter(self, source, revision=None, name=None, *, removable, fetch):
        self.asked.append(("add", source, revision, name))
        self.names = (*self.names, name)
        return FitReport(name, source, ok=True, revision=revision)


def test_a_run_reads_the_prompt_once_and_hands_its_fusion_on():
    engine = RecordingEngine()
    items = list(ZeroGpuRunner(engine, here).run(REQUEST, engine.names, read=False))
    assert items[0] is FUSION
    assert [item.index for item in items[1:]] == [0, 1, 2]
    assert engine.asked == [
        ("fusion", "The", REQUEST.composition, ("a",)),
        ("generate", "The", REQUEST.composition, REQUEST.sampling, FUSION, (5,)),
    ]


def test_closing_a_run_closes_the_engines_iterator():
    engine = RecordingEngine()
    with closing(ZeroGpuRunner(engine, here).run(REQUEST, ("a",), read=False)) as items:
        next(items), next(items)
    assert engine.closed


def test_a_fault_crosses_as_its_sentence():
    with pytest.raises(gr.Error) as refusal:
        list(ZeroGpuRunner(RecordingEngine(), here).run(Request("bad", Composition(), Sampling()), ("a",)))
    assert refusal.value.message == "The prompt is bad; write another."
    assert refusal.value.__cause__ is None


def test_everything_that_crosses_to_a_worker_can_be_pickled():
    crossed = []

    def on_gpu(work):
        def fork(*arguments):
            crossed.append(pickle.dumps(arguments))
            for item in work(*pickle.loads(crossed[-1])):
                yield pickle.loads(pickle.dumps(item))

        return fork

    engine = RecordingEngine()
    runner = ZeroGpuRunner(engine, on_gpu)
    assert len(list(runner.run(replace(REQUEST, added=(OWN,)), engine.names, read=False))) == 4
    assert engine.asked[-1][2] == REQUEST.composition
    assert len(crossed) == 1


def test_a_worker_loads_the_visitors_adapters_at_their_commit_once():
    main, worker = RecordingEngine(), RecordingEngine()
    runner = ZeroGpuRunner(main, lambda _: ZeroGpuRunner(worker, here)._work)
    asked = replace(REQUEST, added=(OWN,))
    for _ in range(2):
        list(runner.run(asked, main.names, read=False))
    added = [each for each in worker.asked if each[0] == "add"]
    assert added == [("add", "owner/extra", "c" * 40, "owner/extra")]
    assert not [each for each in main.asked if each[0] == "add"]


def test_fuse_says_how_to_read_and_writes_nothing():
    engine = RecordingEngine()
    assert ZeroGpuRunner(engine, here).fuse("The", ("a",), False, "all") is FUSION
    asked = Composition(method="kl", norm=False, tokens="all")
    assert engine.asked == [("fusion", "The", asked, ("a",))]


def test_a_real_engine_gives_through_the_worker_what_it_gives_here(tmp_path):
    def on_gpu(work):
        def fork(*arguments):
            for item in work(*pickle.loads(pickle.dumps(arguments))):
                yield pickle.loads(pickle.dumps(item))

        return fork

    engine = tiny.engine("llama", tiny.three_unlike(tmp_path, "llama"))
    runner = ZeroGpuRunner(engine, on_gpu)
    composition = Composition({"plain": 1}, curves={"plain": [0, 1]}, schedule={"rslora": [2, 3]})
    request = Request("Who?", replace(composition, schedule={}), Sampling(4, seed=2))
    fusion, *steps, reading = runner.run(request, engine.names)
    alone = [step.token for step in engine.generate("Who?", request.composition, request.sampling)]
    assert [step.token for step in steps] == alone and fusion.kl.shape == (3, 3)
    assert reading.adapters == ("plain",) and len(reading.attribution.base) == len(alone)
    many = list(runner.run_many([request, request], engine.names))
    assert {index for index, _ in many} == {0, 1}
    assert [step.token for index, step in many if index == 1] == alone
    ahead = Request("Who?", composition, Sampling(), tuple(alone[:2]))
    words = runner.next_tokens(ahead, engine.names)
    assert len(words.tokens) == 10
    assert runner.perplexities([("Who?", " me")])[0] > 1
    found = choice_scores(engine, request.composition, "Who?", [" me", " you"])
    np.testing.assert_allclose(runner.choice_scores(request, [" me", " you"]), found, atol=1e-5)

"""The tab of conflicts without a browser: what is measured, shown, and refused."""

from __future__ import annotations

import json
import pickle
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from composer.analysis.explain import explain
from composer.analysis.explanation import Explanation
from composer.core.composition import Composition, Sampling
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.runners.zero_gpu import ZeroGpuRunner
from composer.ui.settings import Settings
from composer.ui.validation import Request
from tests.tools import tiny
from tests.tools.handlers import Controls, everything


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    made = tiny.engine(
        "llama", {name: tiny.adapter(folder / name, "llama", k, r=2) for k, name in enumerate("ab")}
    )
    made.end_tokens = frozenset()
    return made


@pytest.fixture
def page(engine):
    with closing(BatchedRunner(engine, Settings())) as runner:
        yield Page(runner, Settings())


def crossing(work):
    def fork(*arguments):
        for item in work(*pickle.loads(pickle.dumps(arguments))):
            yield pickle.loads(pickle.dumps(item))

    return fork


@pytest.mark.parametrize("kind", ["batched", "zero_gpu"])
@pytest.mark.parametrize("written", [(), (5, 9, 12)])
def test_every_runner_measures_what_explain_measures(engine, kind, written):
    composition, sampling = Composition({"a": 1, "b": -0.5}), Sampling(5, temperature=0)
    runner = BatchedRunner(engine, Settings()) if kind == "batched" else ZeroGpuRunner(engine, crossing)
    with closing(runner):
        items = list(runner.explain(Request("Who", composition, sampling, written), engine.names))
    found = items[-1]
    assert isinstance(found, Explanation) and any(isinstance(item, str) for item in items)
    alone = explain(engine, "Who", composition, sampling, written or None, weights=False)
    assert found.tokens == alone.tokens and found.composition == composition
    np.testing.assert_allclose(found.conflict_mean, alone.conflict_mean, atol=1e-4)
    np.testing.assert_allclose(found.additivity_by_token, alone.additivity_by_token, atol=1e-3)
    assert found.deltas is None and json.dumps(found.to_json())


def sliders(page, value):
    return [value if slot.key.startswith("one-") else 0.0 for slot in page.context.slots]


def test_the_page_shows_four_pictures_with_a_sentence_each(page):
    shown = everything(page.explaining.measure(Controls(page, sliders=sliders(page, 1.0)), None))
    busy, value = shown[0][0], shown[-1][0]
    assert busy["busy"] and shown[-1][1]["interactive"] is False
    assert set(value["findings"]) == {"conflict", "additivity", "outputs", "bands"}
    (pair,) = value["conflict"]
    assert pair["label"] == "a + b" and len(pair["values"]) == value["layers"]
    assert sum(each["values"][0] for each in value["outputs"]) == pytest.approx(1, abs=0.01)
    assert len(value["additivity"]["values"]) == len(value["additivity"]["pieces"]) == 2
    assert json.loads(value["file"])["composition"]["weights"] == {"a": 1, "b": 1}
    assert json.dumps(value)


def test_a_text_that_stands_there_is_the_one_that_is_measured(page):
    controls = Controls(page, sliders=sliders(page, 1.0), sampling={"max_new_tokens": 4, "seed": 3})
    *_, (_, _, _, progress, _, _) = everything(page.generating.generate(controls))
    value = everything(page.explaining.measure(controls, progress))[-1][0]
    assert value["text"] == progress.text or len(value["additivity"]["pieces"]) == len(progress.steps)
    alone = [1.0 if slot.key == "one-a" else 0.0 for slot in page.context.slots]
    controls = Controls(page, sliders=alone, sampling={"max_new_tokens": 4, "seed": 3})
    recorded = replace(
        progress.request, composition=Composition({"a": 1})
    )  # a recording leaves the zeros out
    value = everything(page.explaining.measure(controls, replace(progress, request=recorded)))[-1][0]
    assert len(value["additivity"]["pieces"]) == len(progress.steps)
    other = Controls(page, sliders=sliders(page, 0.5), sampling={"max_new_tokens": 2, "seed": 3})
    value = everything(page.explaining.measure(other, progress))[-1][0]
    assert len(value["additivity"]["pieces"]) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sliders": None}, "Every slider is at 0"),
        ({"prompt": ""}, "prompt is empty"),
        ({"curves": {"curves": {}, "schedule": {"a": [1, 2]}}}, "leave the schedule out"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(page, changes, words):
    if changes.get("sliders", 1) is None:
        changes = {"sliders": sliders(page, 0.0)}
    controls = Controls(page, **{"sliders": sliders(page, 1.0), **changes})
    value, stop = everything(page.explaining.measure(controls, None))[-1]
    assert value["error"] and words in value["message"] and stop["interactive"] is False


def test_one_adapter_and_a_merge_are_shown_too(page):
    alone = [1.0 if slot.key == "one-a" else 0.0 for slot in page.context.slots]
    value = everything(page.explaining.measure(Controls(page, sliders=alone), None))[-1][0]
    assert value["conflict"] == [] and "works alone" in value["findings"]["conflict"]
    merged = Controls(page, sliders=sliders(page, 1.0), method="svd")
    value = everything(page.explaining.measure(merged, None))[-1][0]
    assert value["findings"] and value["outputs"][0]["color"].startswith("#")

"""Recordings: what is kept is what the engine brought, and the bundled ones are what it brings now."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from composer import Composition, Engine, Sampling
from composer.adapters.catalog import load_catalog
from composer.core.catalog_types import Example
from composer.core.errors import ComposerError
from composer.ui.context import PageContext
from composer.ui.page import Page
from composer.ui.recordings import (
    MERGED,
    RECORDINGS,
    file_name,
    folder_of,
    load_recordings,
    read_recording,
    record,
    save_recording,
)
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from composer.ui.validation import Request
from tests.tools import tiny

WEIGHTS = {"plain": 1.0, "rslora": 0.5}
EXAMPLE = Example("Who goes", WEIGHTS, label="Two of them", seed=4)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    engine = tiny.engine("llama", tiny.three_unlike(tmp_path_factory.mktemp("llama"), "llama"))
    engine.end_tokens = frozenset()
    with closing(BatchedRunner(engine, Settings())) as made:
        yield made


def recorded(runner, method="sum"):
    request = Request(EXAMPLE.prompt, Composition(WEIGHTS, method), Sampling(6, seed=4))
    return record(runner, request, "a machine")


@pytest.mark.parametrize("method", ["sum", "kl", "svd", "logits"])
def test_what_was_saved_comes_back(runner, tmp_path, method):
    made = recorded(runner, method)
    save_recording(made, tmp_path / "r.json")
    back = read_recording(tmp_path / "r.json")
    assert (back.base, back.lanes, back.machine) == (made.base, made.lanes, "a machine")
    assert back.request.composition == made.request.composition
    assert [step.token for step in back.steps] == [step.token for step in made.steps]
    assert back.steps[-1].text == made.steps[-1].text and back.steps[-1].finish == "length"
    for one, two in zip(back.steps, made.steps, strict=True):
        np.testing.assert_allclose(one.contribution, two.contribution, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(back.fusion.alpha, made.fusion.alpha, atol=1e-3)
    np.testing.assert_allclose(back.reading.push, made.reading.push, rtol=1e-3, atol=1e-3)
    assert back.reading.pieces == made.reading.pieces
    assert (back.next_tokens is None) == (method == "svd")
    assert (MERGED in back.lanes) == (method == "svd")


def test_a_recording_is_shown_only_for_its_own_base_and_composition(runner, tmp_path):
    save_recording(recorded(runner), tmp_path / file_name(EXAMPLE.label))
    own, engine = Composition(WEIGHTS), runner.engine

    def load(composition=own, example=EXAMPLE):
        return load_recordings(tmp_path, engine, [composition], [example])[0]

    assert load() is not None
    assert load(replace(own, method="kl")) is None
    assert load(example=replace(EXAMPLE, seed=5)) is None
    assert load(example=replace(EXAMPLE, prompt="Other")) is None
    assert load(example=replace(EXAMPLE, label="")) is None
    assert load(example=replace(EXAMPLE, label="Another")) is None


def test_lanes_follow_the_adapters_that_are_loaded(runner, tmp_path):
    made = recorded(runner, "svd")
    wide = made.among(("new", *made.lanes[:-1]))
    assert wide.lanes == ("new", "plain", "rslora", "patterned", MERGED)
    np.testing.assert_array_equal(wide.steps[0].contribution[:, 1:], made.steps[0].contribution)
    assert not wide.steps[0].contribution[:, 0].any()
    assert made.among(("plain",)) is None


@pytest.mark.parametrize("damage", ["", "[]", "{}", "half", "version", "types"])
def test_a_damaged_file_leaves_the_page_without_it(runner, tmp_path, damage):
    path = tmp_path / file_name(EXAMPLE.label)
    save_recording(recorded(runner), path)
    whole = json.loads(path.read_text("utf-8"))
    texts = {
        "half": path.read_text("utf-8")[:500],
        "version": json.dumps(whole | {"version": 99}),
        "types": json.dumps(whole | {"kl": "x", "pieces": 5}),
    }
    path.write_text(texts.get(damage, damage), "utf-8")
    assert load_recordings(tmp_path, runner.engine, [Composition(WEIGHTS)], [EXAMPLE]) == (None,)


def test_a_text_whose_weights_change_cannot_be_recorded(runner):
    request = Request("Who", Composition(WEIGHTS, schedule={"plain": [2, 3]}), Sampling(4))
    with pytest.raises(ComposerError, match="cannot be recorded"):
        record(runner, request, "a machine")


def test_the_bundled_ones_are_what_the_engine_writes_now(any_real_engine):
    """Every preset has one, and the shipped command would make the same texts again.

    On another processor a text may part ways at a near tie: its beginning must be the same, and most texts.
    """
    same = []
    with closing(BatchedRunner(any_real_engine, Settings())) as runner:
        context = PageContext(runner, Settings())
        kept_in = folder_of(any_real_engine.base.spec, any_real_engine.catalog.default)
        assert len(context.examples) == len(list(kept_in.glob("*.json")))
        for example, kept in zip(context.examples, context.recordings, strict=True):
            assert kept is not None, example.label
            steps = list(
                any_real_engine.generate(example.prompt, kept.request.composition, kept.request.sampling)
            )
            now, then = ([step.token for step in each] for each in (steps, kept.steps))
            assert now[:4] == then[:4], example.label
            same.append(now == then)
            assert kept.reading.adapters and len(kept.reading.pieces) == len(kept.steps)
        assert sum(same) > len(same) / 2


def test_the_page_opens_on_the_first(any_real_engine: Engine):
    with closing(BatchedRunner(any_real_engine, Settings())) as runner:
        page = Page(runner, Settings())
        opening = page.opening()
        first = page.context.examples[0]
        assert opening.prompt == first.prompt and opening.composition.weights == first.weights
        assert opening.live["recorded"]["label"] == f"Recorded, seed {first.seed}"
        assert len(opening.live["columns"]) == opening.live["count"] == len(opening.live["reading"]["push"])
        assert len(opening.next_words["words"]) == 10
        assert opening.live["meters"], "the judges say nothing"


def test_every_base_that_is_bundled_has_one_of_each_preset_that_its_adapters_can_play():
    catalog = load_catalog("adapters.yaml")
    folders = {folder_of(spec, catalog.default) for spec in catalog.bases.values() if spec.wheel}
    assert {path for path in RECORDINGS.iterdir() if path.is_dir()} == folders - {RECORDINGS}
    for spec in (spec for spec in catalog.bases.values() if spec.wheel):
        names = {each.name for each in spec.adapters}
        playable = [each for each in catalog.examples if each.label and set(each.weights) <= names]
        for example in playable:
            kept = read_recording(folder_of(spec, catalog.default) / file_name(example.label))
            said = kept.base, kept.request.prompt, dict(kept.request.composition.weights)
            assert said == (spec.id, example.prompt, dict(example.weights)), (spec.name, example.label)

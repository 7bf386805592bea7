"""An explanation in sentences: what is said follows from the numbers, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from composer.analysis.explain import explain
from composer.analysis.findings import findings
from composer.analysis.layer_ablation import LayerAblation
from composer.core.composition import Composition, Sampling
from tests.tools import tiny

LAYERS = 12


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    engine = tiny.engine(
        "llama", {name: tiny.adapter(folder / name, "llama", k, r=2) for k, name in enumerate("ab")}
    )
    return explain(engine, "Who", Composition({"a": 1, "b": 0.5}), Sampling(6, temperature=0), weights=False)


def made(measured, **changes):
    return replace(measured, layers=LAYERS, **changes)


def conflict(measured, cosine):
    values = np.ones((LAYERS, 2, 2))
    values[:, 0, 1] = values[:, 1, 0] = cosine
    return findings(made(measured, conflict_mean=values), {"a": "Joy", "b": "Sport"})["conflict"]


def test_two_that_fight_are_told_where_and_how_much(measured):
    cosine = np.zeros(LAYERS)
    cosine[8:11] = [-0.2, -0.4, -0.3]
    assert conflict(measured, cosine) == "Joy and Sport pull apart most in layers 9-11 (cosine -0.30)."


def test_two_that_pull_together(measured):
    cosine = np.full(LAYERS, 0.05)
    cosine[3] = 0.5
    told = conflict(measured, cosine)
    assert told == "Joy and Sport pull together most in layer 4 (cosine +0.50); nowhere do they fight."


def test_two_that_do_not_meet(measured):
    assert conflict(measured, np.linspace(-0.02, 0.08, LAYERS)) == (
        "Joy and Sport hardly meet: their cosine stays between -0.02 and +0.08 in every layer."
    )


def test_layers_without_outputs_are_left_out(measured):
    cosine = np.full(LAYERS, np.nan)
    assert "No layer" in conflict(measured, cosine)
    cosine[2] = -0.6
    assert "layer 3 (cosine -0.60)" in conflict(measured, cosine)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.1, 0.7, 0.9], "they keep 70% of their separate effects, from 10% at “x” to 90% at “z”"),
        ([-5.0, -0.2, 0.3], "not the sum of their parts"),
        ([np.nan] * 3, "changes no word"),
    ],
)
def test_additivity(measured, values, words):
    found = made(measured, additivity_by_token=np.array(values), pieces=(" x", "y", "z"))
    assert words in findings(found, {})["additivity"]


def test_who_is_loud(measured):
    outputs = np.ones((LAYERS, 2))
    outputs[:, 1] = 2
    outputs[5:7, 1] = 6
    told = findings(made(measured, outputs=outputs), {"b": "Sport"})["outputs"]
    assert told.startswith(
        "Sport is 2.4 times as loud as a in a typical layer, most in layers 6-7 (6.0 times)"
    )
    told = findings(made(measured, outputs=np.ones((LAYERS, 2))), {})["outputs"]
    assert told == "a and b are about as loud as each other."


def test_which_third_matters(measured):
    change = np.array([[-0.1, 0, -0.1], [0, 0, -0.4], [0, -0.5, -0.2]])
    found = made(measured, bands=LayerAblation(change, np.zeros((3, 3))))
    told = findings(found, {})["bands"]
    assert told.startswith(
        "The middle third carries this text: without it a word loses 0.40 nats, 0.20 without the late"
    )
    assert told.endswith("a works most in the early layers, b works most in the late layers.")
    silent = made(measured, bands=LayerAblation(np.zeros((3, 3)), np.zeros((3, 3))))
    assert "No third of the layers matters" in findings(silent, {})["bands"]


@pytest.mark.parametrize(
    "composition", [Composition({"a": 1}), Composition({"a": 1, "b": 1}, "logits"), Composition()]
)
def test_every_composition_has_its_sentences(tmp_path, composition):
    engine = tiny.engine(
        "llama", {name: tiny.adapter(tmp_path / name, "llama", k, r=2) for k, name in enumerate("ab")}
    )
    found = explain(engine, "Who", composition, Sampling(4, temperature=0), weights=False)
    told = findings(found, {})
    assert all(sentence.endswith(".") and "nan" not in sentence for sentence in told.values())

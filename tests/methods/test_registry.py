"""Methods of other packages: found by their entry points, and never in the way of the others."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from composer.core.composition import Composition
from composer.methods import METHODS, GateInputs, gate_method, logit_mixture
from composer.methods.registry import MethodRegistry
from tests.tools import tiny

WORDS = dict(label="Damped", help="Halves what is blended.", formula="g_i = (1 - t/2) w_i", source="a test")


@gate_method(name="damped", parameters=("blend",), **WORDS)
def damped(inputs: GateInputs) -> np.ndarray:
    return np.tile(inputs.weights * (1 - inputs.composition.blend / 2), (inputs.layers, 1))


def entry(name, load):
    return SimpleNamespace(name=name, load=load)


@pytest.fixture
def found(monkeypatch):
    """A registry that finds these entry points."""

    def registry(*entries):
        monkeypatch.setattr("composer.core.plugins.entry_points", lambda group: list(entries))
        return MethodRegistry([METHODS["sum"]])

    return registry


def test_a_method_of_another_package_is_found_and_reads_its_parameter(found):
    registry = found(entry("damped", lambda: damped))
    assert list(registry) == ["sum", "damped"] and registry["damped"] is damped
    inputs = GateInputs(np.array([1.0, 2.0]), 3, (), Composition(method="damped", blend=0.5))
    gates = logit_mixture(damped, inputs).gates
    np.testing.assert_allclose(gates, [[[0.75, 1.5]] * 3])


def test_a_method_of_another_package_generates(found, monkeypatch, tmp_path):
    registry = found(entry("damped", lambda: damped))
    monkeypatch.setattr("composer.engine.resolve.METHODS", registry)
    engine = tiny.engine("llama", {"a": tiny.adapter(tmp_path / "a", "llama", 1)})
    got = engine.next_token_logits("Hello", Composition({"a": 1}, "damped"))
    np.testing.assert_allclose(got, engine.next_token_logits("Hello", Composition({"a": 0.5})), atol=1e-5)


def fails():
    raise RuntimeError("it does not import")


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (fails, "does not import"),
        (lambda: "sum", "no composer.methods.base.Method"),
        (lambda: METHODS["sum"], "already a method called sum"),
        (
            lambda: gate_method(name="x", parameters=("loudness",), **WORDS)(damped.gate_fn),
            "Composition has no loudness",
        ),
    ],
)
def test_a_broken_one_is_left_out_in_one_line_and_the_others_stay(found, load, words, caplog):
    registry = found(entry("broken", load), entry("damped", lambda: damped))
    assert list(registry) == ["sum", "damped"]
    [line] = [record.getMessage() for record in caplog.records]
    assert "broken" in line and words in line and "\n" not in line

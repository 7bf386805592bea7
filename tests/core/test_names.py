"""No adapter, method or merge is mistaken for another, whatever they are called."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.core.composition import Composition, Sampling
from composer.core.names import merged_name, name_fault, unique_name
from composer.core.results import Step
from composer.engine.resolve import lane_names
from composer.methods import METHODS
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.runners.zero_gpu import ZeroGpuRunner
from composer.ui.settings import Settings
from composer.ui.validation import Request
from tests.tools import tiny

MERGES = sorted(name for name, method in METHODS.items() if method.merge)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Two adapters that are called as merges are, one as their places were, and one more."""
    folder = tmp_path_factory.mktemp("names")
    names = {"svd": 1, "plain": 2, "cat": 3}
    return tiny.engine(
        "llama", {name: tiny.adapter(folder / name, "llama", seed, r=4) for name, seed in names.items()}
    )


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """The same adapters under names that nothing else has."""
    folder = tmp_path_factory.mktemp("apart")
    names = {"a": 1, "b": 2, "c": 3}
    return tiny.engine(
        "llama", {name: tiny.adapter(folder / name, "llama", seed, r=4) for name, seed in names.items()}
    )


def request(first: str, second: str, method: str) -> Request:
    return Request("Who?", Composition({first: 1, second: 0.5}, method), Sampling(4, seed=3))


def shown(runner, asked: Request, names) -> list[Step]:
    return [item for item in runner.run(asked, names) if isinstance(item, Step)]


@pytest.mark.parametrize("kind", ["crowd", "forked"])
@pytest.mark.parametrize("method", ["svd", "cat", "ties", "sum", "pico"])
def test_the_lanes_are_whose_they_are_said_to_be(method, kind, engine, apart):
    lanes = []
    for each, names in ((engine, ("svd", "plain")), (apart, ("a", "b"))):
        runner = (
            BatchedRunner(each, Settings()) if kind == "crowd" else ZeroGpuRunner(each, lambda work: work)
        )
        with closing(runner):
            # Somebody who knows of two adapters alone, in another order than the bank's.
            lanes.append(shown(runner, request(*names, method), names[::-1]))
    for ours, reference in zip(*lanes, strict=True):
        assert ours.token == reference.token
        np.testing.assert_allclose(ours.contribution, reference.contribution, rtol=1e-5)
    merged = method in ("svd", "cat", "ties")
    assert lanes[0][-1].contribution.shape[1] == 2 + merged
    if merged:  # it alone adds something
        assert lanes[0][-1].contribution[:, 2].all() and not lanes[0][-1].contribution[:, :2].any()


@pytest.mark.parametrize("method", MERGES)
def test_the_merged_lane_has_a_name_that_no_adapter_has(method, engine):
    composition = Composition({"svd": 1, "plain": 0.5}, method)
    names = lane_names(composition, engine.names)
    assert names[:-1] == engine.names and len(set(names)) == len(names)
    assert names[-1] == (f"({method})" if method in engine.names else method)
    assert engine.resolve(composition).lanes == names


def test_a_trace_and_the_page_name_the_merged_lane_so_too(engine):
    asked = request("svd", "plain", "svd")
    steps = engine.generate(asked.prompt, asked.composition, asked.sampling)
    trace = engine.trace(asked.prompt, asked.composition, asked.sampling, steps)
    assert trace.adapters == ("svd", "plain", "cat", "(svd)")
    assert trace.contribution.shape[2] == 4 and trace.contribution[..., 3].all()
    with closing(BatchedRunner(engine, Settings())) as batched:
        lanes = Page(batched, Settings()).context.lanes(asked)
    assert [lane["name"] for lane in lanes] == list(trace.adapters)
    assert len({json.dumps(lane) for lane in lanes}) == 4
    assert len({lane["label"] for lane in lanes}) == 4


def test_a_merge_is_the_same_whatever_its_adapters_are_called(engine, apart):
    ours = engine.next_token_logits("Who?", Composition({"svd": 1, "cat": 0.5}, "svd"))
    reference = apart.next_token_logits("Who?", Composition({"a": 1, "c": 0.5}, "svd"))
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5)


# --- which names there are -----------------------------------------------------------------------

BAD = {
    "nothing": "",
    "blanks": "  ",
    "too long": "x" * 101,
    "a place of what is made": "(made 1)",
    "a merge beside its adapter": "(svd)",
    "what --weights reads": "a=1",
    "two for --weights": "a,b",
    "a line": "a\nb",
    "a blank behind": "plain ",
    "a zero-width space": "pla\u200bin",
    "turned around": "\u202eplain",
    "a blank that is none": "pla\u00a0in",
    "a surrogate": "a\ud800",
    "a control": "a\x1b[31m",
    "the same": "plain",
    "in capitals": "PLAIN",
    "in full width": "\uff50\uff4c\uff41\uff49\uff4e",
    "with a ligature": "\ufb01ne",
    "with a Cyrillic letter": "pl\u0430in",
    "with a Greek letter": "\u03bfne",
    "no text": 7,
}


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
def test_names_that_can_be_mistaken_are_refused_with_a_sentence(name, tmp_path):
    fault = name_fault(name, ("plain", "fine"))
    assert fault.endswith("give the new one another name.") and "\n" not in fault and len(fault) < 300
    fault.encode()


@pytest.mark.parametrize(
    "name", ["svd", "no", "1", "a b", "Größe", "радость", "喜び", "plain-2", "x.y_z", "sum (2)"]
)
def test_other_names_are_free(name):
    assert name_fault(name, ("plain",)) is None


def test_the_engine_refuses_such_a_name_and_goes_on(engine, tmp_path):
    folder = tiny.adapter(tmp_path / "new", "llama", 5, r=2)
    names, bank = engine.names, engine.snapshot.bank
    for name in ("(made 1)", "SVD", "a=1"):
        report = engine.add_adapter(str(folder), name=name)
        assert not report.ok and report.reasons[0].endswith("give the new one another name.")
    assert engine.names == names and engine.snapshot.bank is bank


TEXTS = st.text(st.sampled_from("aAb\uff21\xe9\u0430-._/ \\(=\u200b\n"), max_size=8)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(sources=st.lists(TEXTS, max_size=6))
def test_a_name_from_a_source_is_always_one_that_can_be_had(sources):
    taken: list[str] = []
    for source in sources:
        name = unique_name(source, taken)
        assert name_fault(name, taken) is None
        taken.append(name)
    for method in METHODS:
        made = merged_name(method, taken)
        assert name_fault(made, taken) is None or made == f"({method})"
        assert made.casefold() not in {name.casefold() for name in taken}

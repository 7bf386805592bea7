"""Curves over the layers and schedules over the tokens, against weights set by hand."""

from __future__ import annotations

import numpy as np
import pytest

from composer import Composition, Sampling
from composer.cli.options import parse_curves, parse_schedule
from composer.core.catalog_types import Attribute
from composer.core.curves import PRESETS, changes, is_on, over_layers
from composer.core.errors import ComposerError
from composer.methods import METHODS
from tests.tools import tiny

PROMPT = "It was a dark and stormy night"
WEIGHTS = {"one": 1.0, "two": 0.75}
SHORT = Sampling(max_new_tokens=8, seed=3)
OUTPUTS = [name for name, each in METHODS.items() if not each.on_logits and each.merge is None]
NO_SCHEDULE = [name for name in METHODS if name not in OUTPUTS]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def engine(request, tmp_path_factory):
    folder, family = tmp_path_factory.mktemp(request.param), request.param
    folders = {
        name: tiny.adapter(folder / name, family, seed, r=4)
        for seed, name in enumerate(("one", "two", "three"))
    }
    made = tiny.engine(family, folders, (Attribute("group", "", ("two", "three")),))
    made.end_tokens = frozenset()
    return made


def gates(engine, **asked) -> np.ndarray:
    return engine.row(0, PROMPT, Composition(**asked), SHORT).mixture.gates


@pytest.mark.parametrize("method", METHODS)
def test_curves_of_ones_change_no_bit(engine, method):
    plain = Composition(WEIGHTS, method)
    ones = Composition(WEIGHTS, method, curves={"one": [1], "two": [1, 1, 1], "three": [1, 1]})
    np.testing.assert_array_equal(
        engine.next_token_logits(PROMPT, ones), engine.next_token_logits(PROMPT, plain)
    )
    steps = [list(engine.generate(PROMPT, each, SHORT)) for each in (ones, plain)]
    assert [step.token for step in steps[0]] == [step.token for step in steps[1]]
    for one, two in zip(*steps, strict=True):
        np.testing.assert_array_equal(one.contribution, two.contribution)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_curve_is_another_weight(engine, method):
    asked = Composition(WEIGHTS, method, curves={"two": [0.5]})
    if METHODS[method].on_logits:
        # There the curve shapes the adapter's branch, and the weight its share of the logits.
        assert np.abs(engine.next_token_logits(PROMPT, asked) - logits(engine, WEIGHTS, method)).max() > 1e-4
        return
    expected = logits(engine, WEIGHTS | {"two": 0.375}, method)
    np.testing.assert_allclose(engine.next_token_logits(PROMPT, asked), expected, atol=1e-4)


def logits(engine, weights, method="sum") -> np.ndarray:
    return engine.next_token_logits(PROMPT, Composition(weights, method))


def test_the_gate_of_a_layer_is_the_weight_times_the_curve_there(engine):
    (found,) = gates(engine, weights=WEIGHTS, curves={"one": [0, 2]}, strength=0.5, bands=(1, 1, 2))
    np.testing.assert_allclose(found[:, 0], [0, 0.5, 2])  # three layers: 0, 1 and 2 times the weight
    np.testing.assert_allclose(found[:, 1], [0.375, 0.375, 0.75])


@pytest.mark.parametrize("method", OUTPUTS)
def test_a_layer_where_a_curve_is_zero_is_as_with_the_slider_at_zero(engine, method):
    (found,) = gates(engine, weights=WEIGHTS, method=method, curves={"two": [0, 0, 1]})
    (without,) = gates(engine, weights={"one": 1.0}, method=method)
    (whole,) = gates(engine, weights=WEIGHTS, method=method)
    known = engine.snapshot.column("one")
    if METHODS[method].prompt_stats or METHODS[method].calibrated:
        assert not found[:2, engine.snapshot.column("two")].any() and found[2].any()
    else:
        np.testing.assert_allclose(found[0], without[0], atol=1e-6)
        np.testing.assert_allclose(found[2], whole[2], atol=1e-6)
        assert found[0, known] != 0


@pytest.mark.parametrize("method", ["cat", "svd", "ties"])
def test_a_merge_follows_a_curve_at_every_site(engine, method):
    late = Composition(WEIGHTS, method, curves={"one": [0, 0, 1], "two": [0, 0, 1]})
    merged = engine.resolve(late)
    (lease,) = merged.leases
    layers = {engine.model.layer_of[path] for path in engine.snapshot.bank.adapter(lease.name)}
    assert layers == {2} or not any(
        factors.B.any()
        for path, factors in engine.snapshot.bank.adapter(lease.name).items()
        if engine.model.layer_of[path] < 2
    )
    assert engine.resolve(Composition(WEIGHTS, method)).leases[0].name != lease.name


def test_a_merge_of_nothing_is_the_base(engine):
    nothing = Composition(WEIGHTS, "svd", curves={"one": [0], "two": [0]})
    np.testing.assert_allclose(
        engine.next_token_logits(PROMPT, nothing), engine.next_token_logits(PROMPT), atol=1e-5
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_means_the_same_on_a_base_of_other_depth(name):
    few, many = over_layers(PRESETS[name], 7), over_layers(PRESETS[name], 25)
    np.testing.assert_allclose(few, many[::4], atol=1e-12)
    assert (many.min() >= 0, many.max()) == (True, 1)


def test_anchors_are_evenly_spaced_over_the_depth():
    np.testing.assert_allclose(over_layers([0, 1], 5), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(over_layers([0, 1, 0], 5), [0, 0.5, 1, 0.5, 0])
    np.testing.assert_allclose(over_layers([2], 3), [2, 2, 2])
    np.testing.assert_allclose(over_layers([0.5, 1], 1), [0.5])


@pytest.mark.parametrize("method", OUTPUTS)
def test_a_schedule_switches_an_adapter_on_and_off(engine, method):
    asked = Composition(WEIGHTS, method, schedule={"one": [3, 5], "two": [1, None]})
    steps = list(engine.generate(PROMPT, asked, SHORT))
    # [T, N]; the first token is sampled from the prompt's pass, whose gates are those of the first token.
    added = np.stack([step.contribution for step in steps]).any(axis=1)
    assert added[:, 0].tolist() == [False, False, True, True, True, False, False, False]
    assert added[:, 1].all()


def test_a_schedule_of_the_whole_text_changes_nothing(engine):
    whole = Composition(WEIGHTS, schedule={"one": [1, None], "two": [1, 8]})
    tokens = [[s.token for s in engine.generate(PROMPT, c, SHORT)] for c in (whole, Composition(WEIGHTS))]
    assert tokens[0] == tokens[1]


def test_fusion_weights_stay_those_of_the_prompt_when_a_schedule_changes_the_weights(engine):
    row = engine.row(0, PROMPT, Composition(WEIGHTS, "kl", schedule={"one": [1, 2]}), SHORT)
    alone = gates(engine, weights={"two": 0.75}, method="kl")
    np.testing.assert_allclose(row.refresh_gates([*row.ids, 5, 6]).gates, alone, atol=1e-5)


def test_a_row_goes_on_as_if_it_had_sampled_what_is_written(engine):
    asked = Composition(WEIGHTS, curves={"two": [0.5, 1]})
    whole = list(engine.generate(PROMPT, asked, SHORT))
    for cut in (1, 3, 7):
        written = [step.token for step in whole[:cut]]
        row = engine.row(0, PROMPT, asked, Sampling(max_new_tokens=8 - cut, seed=3), written=written)
        session = engine.start(1, 64)
        rest = session.add([row])
        while session.keys:
            rest += session.step()
        assert [step.token for step in rest] == [step.token for step in whole[cut:]]
        assert [step.index for step in rest] == list(range(cut, 8))
        assert rest[-1].text == "".join(step.piece for step in [*whole[:cut], *rest])


def test_a_schedule_counts_what_is_written(engine):
    asked = Composition(WEIGHTS, schedule={"one": [3, 4]})
    row = engine.row(0, PROMPT, asked, Sampling(max_new_tokens=4), written=[65, 66])
    session = engine.start(1, 64)
    steps = session.add([row])
    while session.keys:
        steps += session.step()
    added = [bool(step.contribution[:, 0].any()) for step in steps]
    assert added == [True, True, False, False]


def test_a_text_as_long_as_the_base_reads_cannot_go_on(engine):
    with pytest.raises(ComposerError, match="as long as the base can read"):
        engine.row(0, PROMPT, Composition(WEIGHTS), SHORT, written=[5] * engine.base.context)


@pytest.mark.parametrize("method", NO_SCHEDULE)
def test_methods_that_cannot_follow_a_schedule_say_so(engine, method):
    with pytest.raises(ComposerError, match="cannot follow a schedule"):
        engine.resolve(Composition(WEIGHTS, method, schedule={"one": [2, 3]}))


def test_an_unknown_adapter_is_a_sentence(engine):
    for asked in ({"curves": {"nobody": [1]}}, {"schedule": {"nobody": [1, 2]}}):
        with pytest.raises(ComposerError, match="nobody"):
            engine.resolve(Composition(WEIGHTS, **asked))


@pytest.mark.parametrize(
    "bad",
    [
        {"curves": [1]},
        {"curves": {"a": []}},
        {"curves": {"a": [1] * 65}},
        {"curves": {"a": "late"}},
        {"curves": {"a": [1, float("nan")]}},
        {"curves": {"a": [1, 5]}},
        {"curves": {"a": [[1]]}},
        {"curves": {str(i): [1] for i in range(300)}},
        {"schedule": {"a": [1]}},
        {"schedule": {"a": [0, 3]}},
        {"schedule": {"a": [5, 3]}},
        {"schedule": {"a": [1.5, 3]}},
        {"schedule": {"a": [None, 3]}},
        {"schedule": "a"},
    ],
)
def test_hostile_curves_and_schedules_are_sentences(bad):
    with pytest.raises(ComposerError) as fault:
        Composition(**bad)
    assert str(fault.value).endswith(".") and "\n" not in str(fault.value)


def test_as_dict_makes_the_same_composition():
    asked = Composition(WEIGHTS, curves={"one": (0, 1)}, schedule={"two": (2, None)})
    assert Composition(**asked.as_dict()) == asked


def test_spans_and_their_changes():
    assert [is_on((2, 3), token) for token in (1, 2, 3, 4)] == [False, True, True, False]
    assert is_on(None, 1) and is_on((2, None), 999)
    assert changes({"a": (1, None)}) == frozenset()
    assert changes({"a": (3, 5), "b": (1, 5)}) == {2, 5}


def test_the_command_line_reads_curves_and_schedules():
    assert parse_curves("a=0:0.5:1, b=late") == {"a": (0, 0.5, 1), "b": PRESETS["late"]}
    assert parse_schedule("a=2-5,b=3-") == {"a": (2, 5), "b": (3, None)}
    for read, text in (
        (parse_curves, "a=up"),
        (parse_curves, "a"),
        (parse_schedule, "a=3"),
        (parse_schedule, "a=x-"),
    ):
        with pytest.raises(ComposerError, match="Write --"):
            read(text)

"""Sliders become weights and back: two-way sliders, the switch, spare slots."""

import math

import pytest

from composer.core.catalog_types import AdapterSpec, Attribute, Slider
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.ui.components.weight_sliders import (
    is_shown,
    make_pool,
    needs_per_adapter,
    read_weights,
    safe_color,
    to_values,
    to_weights,
)

ADAPTERS = (
    AdapterSpec("positive", "a", label="Positive", color="#112233", slider=Slider(-1, 1.5, 0.1, 0.5)),
    AdapterSpec("negative", "b", label="Negative", color="#445566", slider=Slider(-1, 3, 0.05, 0.2)),
    AdapterSpec("sports", "c", label="Sports", color="#778899"),
)
GROUPS = (
    Attribute("sentiment", "Sentiment", ("negative", "positive"), poles=("negative", "positive")),
    Attribute("topic", "Topic", ("sports",)),
)
POOL = make_pool(ADAPTERS, GROUPS, max_added=2)


def named(values):
    return {slot.key: value for slot, value in zip(POOL, values, strict=True)}


def test_the_pool_has_a_pair_its_members_the_others_and_spares():
    assert [slot.key for slot in POOL] == [
        "pair-sentiment",
        "one-negative",
        "one-positive",
        "one-sports",
        "spare-0",
        "spare-1",
    ]
    pair = POOL[0]
    assert pair.label == "Negative ↔ Positive"
    assert pair.colors == ("#445566", "#112233")
    assert (pair.slider.minimum, pair.slider.maximum, pair.slider.step) == (-3, 1.5, 0.05)
    assert pair.slider.default == pytest.approx(0.3)


def test_a_group_without_poles_gives_every_adapter_its_own_slider():
    pool = make_pool(ADAPTERS, (Attribute("sentiment", "", ("negative", "positive")),), max_added=0)
    assert [slot.key for slot in pool] == ["one-positive", "one-negative", "one-sports"]
    assert not any(slot.member for slot in pool)


@pytest.mark.parametrize(
    ("per_adapter", "added", "shown"),
    [
        (False, (), {"pair-sentiment", "one-sports"}),
        (True, (None, None), {"one-negative", "one-positive", "one-sports"}),
        (False, ("poems",), {"pair-sentiment", "one-sports", "spare-0"}),
        (False, (None, "poems"), {"pair-sentiment", "one-sports", "spare-1"}),
        (True, ("a", "b"), {"one-negative", "one-positive", "one-sports", "spare-0", "spare-1"}),
    ],
)
def test_what_is_shown(per_adapter, added, shown):
    assert {slot.key for slot in POOL if is_shown(slot, per_adapter, added)} == shown


@pytest.mark.parametrize(
    ("value", "negative", "positive"), [(1.2, 0, 1.2), (-0.7, 0.7, 0), (0, 0, 0), (None, 0, 0)]
)
def test_a_two_way_slider_pulls_one_pole_only(value, negative, positive):
    weights = to_weights(POOL, [value, 9, 9, 0.5, 9, 9], per_adapter=False, added=())
    assert weights == {"negative": negative, "positive": positive, "sports": 0.5}


def test_own_sliders_and_added_adapters_are_read_when_shown():
    weights = to_weights(POOL, [9, 0.1, -0.2, 0.3, 0.4, 9], per_adapter=True, added=("poems",))
    assert weights == {"negative": 0.1, "positive": -0.2, "sports": 0.3, "poems": 0.4}


def test_a_nan_on_a_two_way_slider_reaches_the_composition_and_is_refused():
    weights = to_weights(POOL, [math.nan, 0, 0, 0, 0, 0], per_adapter=False, added=())
    with pytest.raises(ComposerError, match="The weight of"):
        Composition(weights=weights)


def test_the_switch_carries_values_over_and_back():
    weights = to_weights(POOL, [-1.5, 0, 0, 0.5, 0.25, 0], per_adapter=False, added=("poems",))
    values = to_values(POOL, weights, added=("poems",))
    assert named(values) == {
        "pair-sentiment": -1.5,
        "one-negative": 1.5,
        "one-positive": 0,
        "one-sports": 0.5,
        "spare-0": 0.25,
        "spare-1": 0,
    }
    assert to_weights(POOL, values, per_adapter=True, added=("poems",)) == weights
    assert to_weights(POOL, values, per_adapter=False, added=("poems",)) == weights


def test_values_stay_inside_the_slider():
    assert named(to_values(POOL, {"positive": 7, "negative": -7}, ()))["one-positive"] == 1.5
    assert named(to_values(POOL, {"positive": 7}, ()))["pair-sentiment"] == 1.5


@pytest.mark.parametrize(
    ("weights", "needed"),
    [
        ({"positive": 1}, False),
        ({"negative": 1}, False),
        ({"positive": 1, "negative": 0.5}, True),
        ({"positive": -1}, True),
        ({"sports": -1}, False),
    ],
)
def test_when_one_two_way_slider_cannot_say_it(weights, needed):
    assert needs_per_adapter(POOL, weights) is needed


@pytest.mark.parametrize("color", ["red", "", "#12345", "#1234567", "#12345g", "#123456;}", "url(x)"])
def test_only_hex_colours_enter_the_style_sheet(color):
    assert safe_color(color) == "#888888"


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "positive=1",
        {"nobody": 1},
        {"sports": "1"},
        {"sports": True},
        {"sports": math.nan},
        {"sports": 9},
    ],
)
def test_weights_from_outside_are_refused_with_a_sentence(raw):
    with pytest.raises(ComposerError) as refusal:
        read_weights(raw, ("sports", "world"))
    assert str(refusal.value).endswith(".")


def test_weights_from_outside():
    assert read_weights({"sports": 1, "world": -0.5}, ("sports", "world")) == {"sports": 1, "world": -0.5}

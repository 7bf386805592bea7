"""Sweeps: which texts are asked for, what is counted, and where the sweet spot is."""

from __future__ import annotations

import re

import pytest

from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.evaluation.dose.sweep import Axis, Decider, Dose, DosePlan, make_deciders
from composer.evaluation.dose.sweet_spot import FLUENT
from composer.evaluation.judges.serialization import load_judges

MIX = Composition({"joy": 1.0, "fear": -1.0}, "contrast", contrast=0.25)
LOUD = Decider("sport", "a word", lambda prompt, text: "goal" in text)
GLAD = Decider("joy", "a word", lambda prompt, text: "glad" in text)


SPORT = Axis("sport", (0.0, 1.0, 2.0))


def plan(axes=(SPORT,), prompts=("One", "Two"), seeds=(0,)):
    return DosePlan(MIX, axes, prompts, seeds)


def filled(texts, perplexities=(10.0, 12.0, 30.0), deciders=(LOUD, GLAD), **given):
    """A sweep whose texts depend on the point alone."""
    dose = Dose(plan(**given), {each.adapter: each for each in deciders})
    for place, task in enumerate(dose.plan.tasks):
        dose.add(place, texts[task.point], perplexities[task.point])
    return dose


def test_weights_at_equal_distances():
    assert Axis.between("sport", 0, "2", 5).weights == (0, 0.5, 1, 1.5, 2)
    assert Axis.between("sport", -1, 1, 3.0).weights == (-1, 0, 1)


@pytest.mark.parametrize(
    "given",
    [(0, 0, 3), (2, 1, 3), (0, 9, 3), (0, 1, 1), (0, 1, 99), ("x", 1, 3), (0, float("nan"), 3), (None, 1, 3)],
)
def test_what_is_no_range_is_refused(given):
    with pytest.raises(ComposerError, match="weight"):
        Axis.between("sport", *given)


def test_every_point_gets_its_texts_and_soon_some():
    made = plan(seeds=(3, 4))
    assert len(made.tasks) == 3 * 2 * 2
    assert [task.point for task in made.tasks[:3]] == [0, 1, 2]
    assert made.composition_at(2).weights == {"joy": 1, "fear": -1, "sport": 2}
    assert made.composition_at(2).contrast == 0.25


def test_two_axes_are_every_pair():
    made = plan(axes=(Axis("sport", (0.0, 1.0)), Axis("joy", (0.5, 1.5))))
    assert made.points == ((0, 0.5), (0, 1.5), (1, 0.5), (1, 1.5))
    assert made.composition_at(1).weights == {"joy": 1.5, "fear": -1, "sport": 0}


@pytest.mark.parametrize(
    "axes", [(), (Axis("a", (0.0, 1.0)),) * 2, tuple(Axis(n, (0.0, 1.0)) for n in "abc")]
)
def test_other_numbers_of_axes_are_refused(axes):
    with pytest.raises(ComposerError, match="one adapter, or two"):
        plan(axes=axes)


def test_a_flood_is_refused():
    with pytest.raises(ComposerError, match="fewer"):
        plan(prompts=tuple(map(str, range(400))))


def test_the_sweet_spot_has_most_texts_right_among_the_fluent():
    dose = filled(("glad", "glad goal", "glad goal"))
    assert dose.targets == ("sport", "joy")
    rows = dose.rows()
    assert [row.right["sport"].value for row in rows] == [0, 1, 1] and rows[0].together.value == 0
    spot = dose.sweet_spot({"sport": "Sport", "joy": "Joy"})
    assert spot.point == 1 and spot.sentence.startswith("Sweet spot: Sport at 1. There 100%")
    assert "Sport and Joy" in spot.sentence and f"within {FLUENT:g} times that at 0 (10.0)" in spot.sentence


def test_what_reads_badly_is_no_sweet_spot_however_right():
    dose = filled(("glad", "glad", "glad goal"), (10.0, 12.0, 30.1))
    spot = dose.sweet_spot()
    assert spot.point is None and "sport at 2 has them in 100% at 30.1" in spot.sentence
    assert filled(("glad", "glad", "glad goal"), (10.0, 12.0, 30.0)).sweet_spot().point == 2


def test_a_milder_weight_that_does_about_as_well_is_the_sweet_spot():
    """Of ten prompts' texts none, seven and eight are right: the eight are luck."""
    prompts, right = tuple("abcdefghij"), {0: 0, 1: 7, 2: 8}

    def swept(right):
        dose = Dose(plan(prompts=prompts), {"sport": LOUD, "joy": GLAD})
        for place, task in enumerate(dose.plan.tasks):
            text = "glad goal" if prompts.index(task.prompt) < right[task.point] else "glad"
            dose.add(place, text, (10.0, 16.0, 25.0)[task.point])
        return dose.sweet_spot()

    spot = swept(right)
    assert spot.point == 1 and spot.sentence.startswith("Sweet spot: sport at 1. There 70%")
    assert "at a perplexity of 16.0" in spot.sentence and "80%" in spot.sentence
    assert "with sport at 2, among those" in spot.sentence
    assert swept({**right, 1: 2}).point == 2, "two of ten are clearly fewer"


def test_without_a_judge_or_a_text_there_is_no_sweet_spot():
    assert "No judge decides on sport" in filled(("a", "b", "c"), deciders=()).sweet_spot().sentence
    empty = Dose(plan(), {"sport": LOUD})
    assert empty.sweet_spot().point is None and empty.rows()[0].together is None


def test_half_of_a_sweep_can_be_read():
    dose = Dose(plan(), {"sport": LOUD})
    dose.add(1, "goal", 9.0)
    rows = dose.rows()
    assert [row.texts for row in rows] == [0, 1, 0] and rows[1].perplexity == 9 and rows[0].perplexity is None


def test_repetition_is_of_each_text():
    dose = filled(("a b c d a b c d", "one two three four five", "x"))
    assert dose.rows()[0].repetition == pytest.approx(0.2) and dose.rows()[2].repetition is None


def test_the_table_has_a_number_for_each_heading():
    head, table = filled(("glad", "goal", "goal")).table()
    assert head[0] == "weight of sport" and all(len(row) == len(head) for row in table)
    assert table[1][head.index("sport right")] == 1


def test_bundled_judges_and_signs_decide():
    found = make_deciders(load_judges())
    assert {"positive", "sports", "archaic", "poetic"} <= set(found)
    assert found["archaic"].decide("And", " thou shalt see") and not found["archaic"].decide("thou", " sees")
    assert found["sports"].decide("The team", " won the match and the players scored two goals")
    assert re.search("word counts", found["sports"].means)

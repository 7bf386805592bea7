"""A generation from reading to finished, as the page shows it."""

import numpy as np
import pytest

from composer.core.composition import Composition, Sampling
from composer.core.results import Fusion, Step
from composer.ui.validation import Request
from composer.ui.views.generation import Progress

ADAPTERS = [{"name": name, "label": name.upper(), "color": "#112233"} for name in ("a", "b", "c")]
KL = np.array([[1.0, 3.0, 4.0]], np.float32)
FUSION = Fusion(KL, KL / 8)


def progress(**weights):
    request = Request("The", Composition(weights), Sampling(9, seed=4))
    return Progress(request, ("a", "b", "c"), ADAPTERS, layers=1)


def step(index, seconds, finish=None):
    return Step(0, index, 7, "x", "x" * (index + 1), np.full((1, 3), 0.5, np.float32), seconds, finish)


def test_numbers_of_the_status_line():
    run = progress(a=1)
    assert run.reading()["status"]["phase"] == "reading"
    sent = run.writing([step(0, 0.25), step(1, 0.5), step(2, 0.75)])
    assert sent["status"] == {
        "phase": "writing",
        "message": "",
        "tokens": 3,
        "per_second": 4.0,
        "first_ms": 250.0,
        "seed": 4,
    }
    assert (sent["text"], sent["room"], sent["prompt"]) == ("xxx", 9, "The")


@pytest.mark.parametrize(
    ("finish", "phase"),
    [("length", "done"), ("end", "done"), ("time", "done"), ("stopped", "stopped"), (None, "stopped")],
)
def test_how_it_ended(finish, phase):
    run = progress(a=1)
    run.writing([step(0, 0.1), step(1, 0.2, finish)])
    assert run.finished()["status"]["phase"] == phase


def test_who_waits_reads_their_place_and_then_that_it_is_their_turn():
    run = progress(a=1)
    sent = run.waiting(3, slots=32)
    assert sent["status"]["phase"] == "waiting"
    assert sent["status"]["message"] == "All 32 slots are busy. You are 3rd in the queue."
    assert run.waiting(0, slots=32) == run.reading()


def test_a_whole_text_whose_fusion_is_still_read_has_every_column():
    run = progress(a=1)
    run.writing([step(i, 0.1 * i) for i in range(40)])
    sent = run.fusing()
    assert (sent["status"]["phase"], len(sent["columns"])) == ("fusing", 40)


def test_stopped_before_the_first_token():
    run = progress(a=1)
    assert run.finished()["status"]["phase"] == "stopped"
    assert not run.contribution_figure().data


def test_each_run_has_its_own_name():
    assert progress().run != progress().run


def test_fusion_is_shared_among_the_adapters_that_take_part():
    bars = progress(a=1, b=-0.5).fusion_figure(FUSION).data[:2]
    assert [bar.name for bar in bars] == ["A", "B"]
    assert [float(bar.y[0]) for bar in bars] == [0.25, 0.75]


@pytest.mark.parametrize("weights", [{}, {"b": 1.0}])
def test_fewer_than_two_show_what_all_would_get(weights):
    bars = progress(**weights).fusion_figure(FUSION).data[:3]
    assert [float(bar.y[0]) for bar in bars] == [0.125, 0.375, 0.5]


def test_contribution_has_a_line_per_adapter():
    run = progress(a=1)
    run.writing([step(0, 0.1)])
    assert len(run.contribution_figure().data) == 3

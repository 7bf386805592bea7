"""The soak's own eyes: what is planted is found, and what is right is let through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.soak import solo as solo_runs
from benchmarks.soak.check import check
from benchmarks.soak.figures import by_minute, fairness, memory, not_freed, waits
from benchmarks.soak.plan import Dice, SoakPlan
from benchmarks.soak.records import LEFT, SENTENCE, STOPPED, WHOLE, Answer, Asked, Recorder, Sweep
from benchmarks.soak.server import unexplained
from benchmarks.soak.server_faults import MODEL, NAMES, InjectedFault, ServerFaults
from benchmarks.soak.solo import Solo
from composer.core.composition import Composition, Sampling
from composer.engine.resolve import lane_names
from composer.model.runtime.sampling import BatchSampler
from tests.benchmarks.soak_world import tiny_world

ASKED = Asked(
    "first",
    "visitor 01 says: The film was",
    {"weights": {"plain": 1.0, "rslora": 0.5}},
    {"max_new_tokens": 12, "seed": 3},
)
OTHER = replace(ASKED, prompt="visitor 02 says: The film was", sampling={"max_new_tokens": 40, "seed": 4})
LONG = replace(ASKED, sampling={"max_new_tokens": 40, "seed": 3})
OWN = replace(ASKED, composition={"weights": {"plain": 1.0, "soak/hub-01": 1.0}}, own=("soak/hub-01",))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def solo(world):
    return Solo(world, compile_step=False)


def right(solo, asked, visitor="visitor 01") -> Answer:
    """The answer that a visitor should get."""
    with solo.resolved(asked) as (engine, resolved, names):
        steps = list(engine.generate(asked.prompt, resolved, Sampling(**asked.sampling)))
    contribution = np.stack([step.contribution for step in steps])
    tokens = tuple(step.token for step in steps)
    return Answer(
        visitor,
        "generate",
        asked,
        steps[-1].text,
        WHOLE,
        1.0,
        2.0,
        1.5,
        tokens=tokens,
        adapters=tuple(names),
        contribution=contribution,
    )


def checked(solo, *answers, happened=lambda name: False, sweep=None):
    recorder = Recorder()
    for answer in answers:
        recorder.answer(answer)
    if sweep:
        recorder.sweep(sweep)
    return check(recorder, solo, happened)


def test_right_answers_pass(solo, world):
    one, own = right(solo, ASKED), right(solo, OWN)
    assert own.adapters == lane_names(Composition(**OWN.composition), (*world.names("first"), "soak/hub-01"))
    half = replace(one, text=one.text[: len(one.text) // 2], ended=STOPPED)
    cut = replace(half, text="", ended=LEFT)
    found = checked(solo, one, own, half, cut)
    assert found.wrong == [] and found.answers == {WHOLE: 2, STOPPED: 1, LEFT: 1}
    assert "soak/hub-01" not in solo.engine("first").names


@pytest.mark.parametrize("ended", [WHOLE, STOPPED, LEFT])
def test_another_text_is_wrong(solo, ended):
    one = right(solo, ASKED)
    found = checked(solo, replace(one, text=f"{one.text[:4]}?{one.text[5:]}", ended=ended))
    assert len(found.wrong) == 1 and not found.wrong[0].leak


def test_a_text_that_ends_too_early_or_late_is_wrong(solo):
    one = right(solo, ASKED)
    assert len(checked(solo, replace(one, text=one.text[:-2])).wrong) == 1
    assert len(checked(solo, replace(one, text=f"{one.text}..")).wrong) == 1


def test_anothers_text_is_a_leak(solo):
    one, two = right(solo, LONG), right(solo, OTHER, "visitor 02")
    found = checked(solo, replace(one, text=two.text), two)
    assert [each.leak for each in found.wrong] == [True]


def test_anothers_adapters_and_weights_are_leaks(solo):
    one = right(solo, ASKED)
    strange = replace(one, adapters=(*one.adapters, "soak/hub-02"))
    louder = replace(one, contribution=one.contribution * 1.1)
    assert [each.leak for each in checked(solo, strange, louder).wrong] == [True, True]


def test_a_sentence_needs_a_fault_that_explains_it(solo):
    said = "This text could not be continued; try again. The log has the details."
    one = replace(right(solo, ASKED), ended=SENTENCE, sentence=said, text="")
    assert len(checked(solo, one).wrong) == 1
    assert checked(solo, one, happened=lambda name: name == MODEL).wrong == []
    other = replace(one, sentence="Something went wrong.")
    assert len(checked(solo, other, happened=lambda name: True).wrong) == 1


def test_a_draw_that_rounding_decides_is_a_tie_and_no_wrong_answer(solo, monkeypatch):
    """An answer in which one draw was made from logits that were moved as far as rounding may move them."""
    noise, alone = 0.5, right(solo, LONG).text
    for place in range(3, 30):
        with monkeypatch.context() as patched:
            patched.setattr(BatchSampler, "__call__", moving_one_draw(place, noise))
            other = replace(right(solo, LONG), tokens=None, contribution=None)
        if other.text != alone:
            break
    assert other.text != alone, "no draw was near another one"
    monkeypatch.setattr(solo_runs, "ROUNDING", {"none": noise})
    found = checked(solo, other)
    assert found.wrong == [] and found.ties == 1
    monkeypatch.setattr(solo_runs, "ROUNDING", {"none": 1e-6})
    assert len(checked(solo, other).wrong) == 1


def moving_one_draw(place, noise):
    """A sampler that moves the logits of its `place`-th draw, as the first of the checker's trials does."""
    draw, before = BatchSampler.__call__, []

    def call(self, logits):
        before.append(None)
        if len(before) == place:
            own = torch.Generator().manual_seed(0)
            logits = logits + (2 * torch.rand(logits.shape, generator=own) - 1) * noise
        return draw(self, logits)

    return call


def test_a_sweeps_table_is_compared(solo):
    span = {"plain": (0.0, 1.5, 3)}
    row = {"perplexity": 1.0, "repetition": 0.0, "texts": 1}
    wrong = checked(solo, sweep=Sweep("visitor 01", ASKED, span, (row, row, row), 1.0, 2.0)).wrong
    assert sum("perplexity" in each.what for each in wrong) == 3


# --- figures and logs --------------------------------------------------------------------------------


def waiting(at, first, action="generate"):
    return Answer("v", action, Asked("first", "p", {"method": "sum"}, {}), "x", WHOLE, at, first + 1, first)


def test_waits_and_fairness_are_of_those_who_came_together():
    together = [waiting(5.0, 6.0), waiting(5.2, 6.2), waiting(5.4, 15.4)]
    alone = [waiting(8.0, 90.0), waiting(5.1, 80.0, action="compare")]
    found = fairness([*together, *alone])
    assert (found.groups, found.unfair) == (1, 1) and found.worst == pytest.approx(2.5)
    assert waits(together).longest == pytest.approx(10.0) and waits([]) is None
    assert fairness([waiting(5.0, 5.01), waiting(5.0, 5.3)]).unfair == 0, "nobody notices 0.3 s"


def test_memory_grows_after_the_warm_up():
    readings = [(float(place), 100 + min(place, 30)) for place in range(100)]
    assert memory(readings, 30).growth == pytest.approx(0)
    leaking = [(float(place), 100 + place) for place in range(200)]
    assert memory(leaking, 30).growth > 0.3
    assert memory(readings[:32], 30) is None


def test_memory_is_told_minute_by_minute():
    readings = [(100.0 + second, 5 + second // 60) for second in range(150)]
    assert by_minute(readings) == [5, 6, 7] and by_minute([]) == []


def test_what_is_not_freed_is_named():
    free = {"rows": 0, "working": 0, "calls": 0, "open sessions": 0, "threads": {"MainThread": 1}}
    free |= {"owners": ["soak/hub-01"], "kept": ["soak/hub-01"], "loaded": ["soak/hub-01"]}
    assert not_freed(free, []) == []
    held = {**free, "rows": 2, "threads": {"visitor": 1}, "owners": ["a"], "loaded": ["a", "b"]}
    assert len(not_freed(held, ["left.zip"])) == 5


def test_a_traceback_of_the_log_counts_unless_it_was_injected():
    log = (
        'app: ok\nTraceback (most recent call last):\n  File "x.py", line 1, in y\n    z()\n{}: words\nmore\n'
    )
    assert unexplained(log.format("benchmarks.soak.server_faults.InjectedFault")) == []
    assert unexplained(log.format("ValueError")) == ["ValueError: words"]


def test_a_fault_strikes_once_for_each_time_it_is_armed():
    faults = ServerFaults()
    assert not any(faults.strikes(name) for name in NAMES)
    faults.arm(MODEL)
    assert faults.strikes(MODEL) and not faults.strikes(MODEL) and faults.fired[MODEL] == 1
    with pytest.raises(ValueError, match="no fault"):
        faults.arm("nothing")
    assert issubclass(InjectedFault, Exception)


def test_the_seed_makes_the_visitor(world):
    def asked(name, seed=0):
        dice = Dice(world, SoakPlan(seed=seed), name)
        return [dice.ask("first") for _ in range(5)]

    assert asked("visitor 01") == asked("visitor 01")
    assert asked("visitor 01") != asked("visitor 02") and asked("visitor 01") != asked("visitor 01", 1)

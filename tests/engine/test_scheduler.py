"""Everybody's rows in one batch: the same words as alone, and nobody's trouble is anybody else's."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from composer import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.engine import scheduler as scheduling
from composer.engine.scheduler import LATER, QueueUpdate, Scheduler
from tests.tools import tiny
from tests.tools.scheduled import LONG, REQUESTS, check_same, first, queued, tokens, written_together


def test_in_a_batch_every_row_gets_the_text_it_gets_alone(engine, scheduler):
    alone = [list(engine.generate(*request)) for request in REQUESTS]
    written = written_together(scheduler, REQUESTS)
    check_same(alone, written)
    for one, other in zip(alone, written, strict=True):
        for mine, reference in zip(one, other, strict=True):
            np.testing.assert_allclose(mine.contribution, reference.contribution, rtol=1e-3, atol=1e-5)
    assert scheduler.busy == 0


def test_a_newcomer_does_not_wait_for_the_last_word(scheduler):
    early = scheduler.submit("I was here", Composition(), LONG).events()
    first(early)
    short = list(scheduler.generate("Me too", Composition(), Sampling(max_new_tokens=2)))
    assert len(short) == 2 and scheduler.busy == 1
    early.close()


def test_leaving_frees_the_slot(engine, scheduler):
    held = [scheduler.submit("Held", Composition(), LONG).events() for _ in range(4)]
    for events in held:
        first(events)
    short = Sampling(max_new_tokens=3, seed=9)
    events = scheduler.submit("Waits", Composition(), short).events()
    assert queued(events) == QueueUpdate(1)
    held.pop().close()
    steps = [event for event in events if isinstance(event, Step)]
    assert tokens(steps) == tokens(engine.generate("Waits", Composition(), short))
    for events in held:
        events.close()


def test_stop_ends_one_and_not_the_other(engine, scheduler):
    stopped = Event()
    mine = scheduler.generate("Mine", Composition(), LONG, stop=stopped.is_set)
    yours = scheduler.generate("Yours", Composition(), Sampling(max_new_tokens=20, seed=4))
    got = [next(yours)]
    next(mine)
    stopped.set()
    assert list(mine) == []
    got += yours
    assert tokens(got) == tokens(engine.generate("Yours", Composition(), Sampling(max_new_tokens=20, seed=4)))


THREE_VOICES = Composition(weights={"plain": 1, "rslora": 1}, method="logits")


def test_a_row_of_several_branches_waits_for_enough_slots_and_is_not_overtaken(engine, scheduler):
    held = [scheduler.submit("Held", Composition(), LONG).events() for _ in range(2)]
    for events in held:
        first(events)
    sampling = Sampling(max_new_tokens=8, seed=9)
    large = scheduler.submit("Large", THREE_VOICES, sampling)
    small = scheduler.submit("Small", Composition(), sampling)
    # Two slots are free: not enough for three voices, and nobody's who came later.
    assert (scheduler.queue_position(large), scheduler.queue_position(small)) == (1, 2)
    held.pop().close()
    got, other = ([event for event in each.events() if isinstance(event, Step)] for each in (large, small))
    assert tokens(got) == tokens(engine.generate("Large", THREE_VOICES, sampling))
    assert tokens(other) == tokens(engine.generate("Small", Composition(), sampling))
    held.pop().close()


def test_all_slots_of_a_row_are_free_when_it_is_gone(scheduler):
    for _ in range(3):
        large = scheduler.submit("Large", THREE_VOICES, LONG).events()
        first(large)
        large.close()
    four = [scheduler.submit("Guest", Composition(), LONG).events() for _ in range(4)]
    for events in four:
        first(events)
    assert scheduler.busy == 4
    for events in four:
        events.close()


def test_a_row_of_more_branches_than_slots_says_what_to_do(engine):
    small = Scheduler(engine, slots=2)
    with pytest.raises(ComposerError, match=r"3 times at once.*room for 2; set fewer adapters"):
        small.submit("Hello", THREE_VOICES, LONG)
    assert small.busy == 0


def test_one_free_slot_is_too_few_for_a_row_of_more_branches(engine, monkeypatch):
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    house = Scheduler(engine, slots=3, queue=0)
    held = house.submit("Held", Composition(), LONG).events()
    first(held)
    with pytest.raises(ComposerError, match="busy: 1 running, 0 queued"):
        house.submit("Large", THREE_VOICES, LONG)
    short = Sampling(max_new_tokens=2)
    assert len(list(house.generate("Small", Composition(), short))) == 2
    held.close()
    house.close()


def test_texts_wait_where_their_keys_and_values_would_be_too_many(engine, monkeypatch):
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    sampling = Sampling(max_new_tokens=50, seed=3)
    # A text of up to 64 tokens takes a block of 64: two at a time, though there are slots for four.
    house = Scheduler(engine, slots=4, kv_tokens=128)
    most, running = [], house._join
    monkeypatch.setattr(house, "_join", lambda *given: (running(*given), most.append(len(house._running))))
    requests = [("Hello", Composition(), sampling), ("You", THREE_VOICES, sampling)]
    requests = [requests[0], requests[0], requests[1], requests[0], requests[0]]
    try:
        written = written_together(house, requests)
    finally:
        house.close()
    check_same([list(engine.generate(*request)) for request in requests], written)
    # Three voices take 192, more than there may ever be: they run alone.
    assert max(most) == 2 and 1 in most


def test_a_full_server_says_so(scheduler):
    held = [scheduler.submit("Guest", Composition(), LONG).events() for _ in range(4)]
    for events in held:
        first(events)
    queue = [scheduler.submit("Next", Composition(), LONG) for _ in range(5)]
    with pytest.raises(ComposerError, match="busy: 4 running, 5 queued"):
        scheduler.submit("One too many", Composition(), LONG)
    for ticket in queue:
        ticket.close()
    for events in held:
        events.close()


@pytest.mark.parametrize(
    ("prompt", "composition", "sampling"),
    [
        ("", Composition(), LONG),
        ("Hello", Composition(weights={"nobody": 1}), LONG),
        ("Hello", Composition(method="nothing"), LONG),
    ],
)
def test_what_cannot_be_generated_is_refused_at_the_door(scheduler, prompt, composition, sampling):
    with pytest.raises(ComposerError):
        scheduler.submit(prompt, composition, sampling)
    assert scheduler.busy == 0


def test_a_row_longer_than_a_place_is_refused(engine):
    small = Scheduler(engine, slots=1, max_seq_len=32)
    with pytest.raises(ComposerError, match="32 tokens"):
        small.submit("Hello", Composition(), Sampling(max_new_tokens=40))


def test_an_adapter_may_come_in_while_rows_run(tmp_path, monkeypatch):
    folders = tiny.three_unlike(tmp_path, "llama")
    late = folders.pop("patterned")
    engine = tiny.engine("llama", folders)
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    old = Composition(weights={"plain": 1})
    expected = tokens(engine.generate("Before", old, LONG))
    scheduler = Scheduler(engine, slots=4)
    running = scheduler.submit("Before", old, LONG).events()
    steps = [first(running)]
    assert engine.add_adapter(str(late), name="patterned").ok
    new = Composition(weights={"patterned": 1})
    joined = list(scheduler.generate("After", new, Sampling(max_new_tokens=5, seed=1)))
    steps += [event for event in running if isinstance(event, Step)]
    assert tokens(steps) == expected
    assert steps[-1].contribution.shape[1] == 2 and joined[-1].contribution.shape[1] == 3
    assert tokens(joined) == tokens(engine.generate("After", new, Sampling(max_new_tokens=5, seed=1)))
    scheduler.close()


@pytest.mark.parametrize(
    "changing",
    [
        Composition({"plain": 1}, schedule={"plain": [2, 40]}),
        Composition({"plain": 1}, "kl", live=3),
    ],
    ids=["schedule", "refresh"],
)
def test_an_adapter_may_come_in_while_a_row_s_gates_change(changing, tmp_path, monkeypatch):
    """Nobody joins meanwhile, so the batch does not have the new adapter when the gates are computed anew."""
    folders = tiny.three_unlike(tmp_path, "llama")
    late = folders.pop("patterned")
    engine = tiny.engine("llama", folders)
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    expected = tokens(engine.generate("Before", changing, LONG))
    scheduler = Scheduler(engine, slots=4)
    running = scheduler.submit("Before", changing, LONG).events()
    steps = [first(running)]
    assert engine.add_adapter(str(late), name="patterned").ok
    steps += [event for event in running if isinstance(event, Step)]
    assert tokens(steps) == expected
    scheduler.close()


def test_closing_ends_everything_with_a_sentence(engine):
    scheduler = Scheduler(engine, slots=1)
    events = scheduler.submit("Endless", Composition(), LONG).events()
    first(events)
    scheduler.close()
    with pytest.raises(ComposerError, match="shutting down"):
        list(events)
    with pytest.raises(ComposerError, match="shutting down"):
        scheduler.submit("Late", Composition(), LONG)


def test_a_background_request_runs_though_somebody_always_waits(engine, monkeypatch):
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    monkeypatch.setattr(scheduling, "LATER", 0.2)
    scheduler, short = Scheduler(engine, slots=1, queue=8), Sampling(max_new_tokens=8)
    waiting = [scheduler.submit("Always", Composition(), short) for _ in range(3)]
    later = scheduler.submit("Later", Composition(), Sampling(max_new_tokens=3), background=True)
    with ThreadPoolExecutor(1) as person:
        written = person.submit(lambda: [each for each in later.events() if isinstance(each, Step)])
        others = 0
        while not written.done():
            for event in waiting.pop(0).events():
                assert event is not None
            waiting.append(scheduler.submit("Always", Composition(), short))
            others += 1
            assert others < 3000, "it waited for ever"
    assert len(written.result()) == 3 and others >= 1
    for each in waiting:
        each.close()
    scheduler.close()


def test_background_requests_come_after_all_others_and_leave_them_room(engine, monkeypatch):
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    scheduler = Scheduler(engine, slots=4, queue=8)
    free = Event()
    scheduler.submit_task(lambda: free.wait(20))
    later = [scheduler.submit("Later", Composition(), LONG, background=True) for _ in range(4)]
    sooner = [scheduler.submit("Sooner", Composition(), Sampling(max_new_tokens=3)) for _ in range(3)]
    free.set()
    for each in sooner:
        assert len([event for event in each.events() if isinstance(event, Step)]) == 3
    first(later[0].events()), first(later[1].events())
    running = sum(each.background for each in scheduler._running.values())
    assert running == 2, "half of the slots"
    assert first(scheduler.submit("Now", Composition(), LONG).events())
    assert tokens(scheduler.generate("Quick", Composition(), Sampling(max_new_tokens=4, seed=1))) == tokens(
        engine.generate("Quick", Composition(), Sampling(max_new_tokens=4, seed=1))
    )
    for each in later:
        each.close()
    scheduler.close()


@pytest.mark.parametrize(("place", "order"), [(LATER, ["soon", "late"]), (-LATER, ["late", "soon"])])
def test_a_task_takes_the_place_in_line_that_it_is_given(scheduler, place, order):
    free, done = Event(), []
    scheduler.submit_task(lambda: free.wait(20))
    late = scheduler.submit_task(lambda: done.append("late"), time.monotonic() + place)
    soon = scheduler.submit_task(lambda: done.append("soon"))
    assert not scheduler.idle
    free.set()
    for each in (late, soon):
        each.result(60)
    assert done == order

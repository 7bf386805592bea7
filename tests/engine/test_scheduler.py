"""Everybody's rows in one batch: the same words as alone, and nobody's trouble is anybody else's."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Barrier, Event

import numpy as np
import pytest
import torch

from composer import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.engine import capacity as capacities
from composer.engine import scheduler as scheduling
from composer.engine.backoff import ENOUGH, FIRST, LONGEST, Backoff
from composer.engine.capacity import Capacity
from composer.engine.scheduler import FAILING, LATER, QueueUpdate, Scheduler
from tests.tools import tiny

REQUESTS = [
    (f"Person {i} says" + " so" * (i % 5), composition, Sampling(max_new_tokens=6 + 3 * i, seed=i, top_k=k))
    for i, (composition, k) in enumerate(
        [
            (Composition(weights={"plain": 1}), 50),
            (Composition(), 5),
            (Composition(weights={"rslora": 0.5, "patterned": -1}), 0),
            (Composition(weights={"plain": 1, "rslora": 1}, method="kl"), 50),
            (Composition(weights={"patterned": 1}, strength=2, bands=(0, 1, 2)), 20),
            (Composition(weights={"plain": -1}), 50),
            (Composition(weights={"rslora": 1}), 3),
            (Composition(weights={"plain": 1, "rslora": 1}, method="logits"), 50),
        ]
    )
]
LONG = Sampling(max_new_tokens=150, seed=3)


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def engine(request, tmp_path_factory):
    return tiny.engine(
        request.param, tiny.three_unlike(tmp_path_factory.mktemp(request.param), request.param)
    )


@pytest.fixture
def scheduler(engine, monkeypatch):
    # A text must not end early, or there is nothing to be in company with.
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    # And a fast machine must not be through with it before the queue's first update.
    monkeypatch.setattr("composer.engine.scheduler.POLL", 0.02)
    made = Scheduler(engine, slots=4, queue=5)
    yield made
    made.close()


def tokens(steps) -> list[int]:
    return [step.token for step in steps]


def first(events) -> Step:
    return next(event for event in events if isinstance(event, Step))


def queued(events) -> QueueUpdate:
    return next(event for event in events if event != QueueUpdate(0))


def test_in_a_batch_every_row_gets_the_text_it_gets_alone(engine, scheduler):
    alone = [list(engine.generate(*request)) for request in REQUESTS]
    with ThreadPoolExecutor(len(REQUESTS)) as people:
        together = list(people.map(lambda request: list(scheduler.generate(*request)), REQUESTS))
    for one, other in zip(alone, together, strict=True):
        assert tokens(one) == tokens(other)
        assert [step.index for step in other] == list(range(len(other)))
        assert other[-1].text == one[-1].text and other[-1].finish == "length"
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


def test_a_row_that_fails_changes_no_other_row(engine, scheduler, monkeypatch):
    from composer.model.tokens import Continuation

    make, push = Continuation.__init__, Continuation.push
    poison, pushed = engine.base.tokenizer("Poison")["input_ids"], Counter()

    def seen(self, tokenizer, prompt, ends):
        make(self, tokenizer, prompt, ends)
        self.poisoned = list(prompt) == poison

    def faulty(self, token, *, last):
        pushed[id(self)] += 1
        if self.poisoned and pushed[id(self)] == 4:
            raise ValueError("half a character too many")
        return push(self, token, last=last)

    monkeypatch.setattr(Continuation, "__init__", seen)
    monkeypatch.setattr(Continuation, "push", faulty)
    good = scheduler.generate("Good", Composition(weights={"plain": 1}), Sampling(max_new_tokens=15, seed=2))
    got = [next(good)]
    with pytest.raises(ComposerError, match="could not be continued"):
        list(scheduler.generate("Poison", Composition(), LONG))
    got += good
    expected = engine.generate("Good", Composition(weights={"plain": 1}), Sampling(max_new_tokens=15, seed=2))
    assert tokens(got) == tokens(expected)


def test_a_fault_of_the_model_ends_the_batch_and_not_the_service(engine, scheduler, monkeypatch):
    step = type(engine.runner).__call__
    monkeypatch.setattr(type(engine.runner), "__call__", lambda *_: 1 / 0)
    with pytest.raises(ComposerError, match="could not be continued"):
        list(scheduler.generate("Now", Composition(), LONG))
    monkeypatch.setattr(type(engine.runner), "__call__", step)
    assert len(list(scheduler.generate("Again", Composition(), Sampling(max_new_tokens=4)))) == 4


@pytest.fixture
def short_of_memory(engine, monkeypatch):
    """The model cannot compute more than 2 rows at once; how many it was asked for, pass by pass."""
    passes, step = [], type(engine.runner).__call__

    def pass_of_two(self, plan, inputs, cache):
        passes.append(len(inputs.tokens))
        if len(inputs.tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return step(self, plan, inputs, cache)

    monkeypatch.setattr(type(engine.runner), "__call__", pass_of_two)
    return passes


def written_in_shortage(engine, scheduler, passes, asked):
    """The steps of each request, of all at once; checks that each text is what it is alone."""
    alone = [list(engine.generate(*request)) for request in asked]
    passes.clear()
    with ThreadPoolExecutor(len(asked)) as people:
        together = list(people.map(lambda request: list(scheduler.generate(*request)), asked))
    for one, other in zip(alone, together, strict=True):
        assert tokens(one) == tokens(other)
        assert [step.index for step in other] == list(range(len(other)))
        assert other[-1].text == one[-1].text and other[-1].finish == "length"
    assert max(passes) > 2
    return together


def test_where_memory_is_short_fewer_go_on_and_no_text_is_lost(engine, scheduler, short_of_memory, caplog):
    ones = [request for request in REQUESTS if request[1].method != "logits"][:4]
    written_in_shortage(engine, scheduler, short_of_memory, ones)
    assert "not enough memory for" in caplog.text


def test_a_text_whose_weights_change_survives_a_shortage(engine, scheduler, short_of_memory):
    """What was read under former weights is not read under today's: every text is what it is alone."""
    spans = ((1, 9), (4, 30), (12, 13), (2, None))
    asked = [
        (f"Person {place}", Composition({"plain": 1, "rslora": 2}, schedule={"rslora": span}), LONG)
        for place, span in enumerate(spans)
    ]
    asked.append(("Who", Composition({"plain": 1, "rslora": 1}, method="kl", live=3), LONG))
    written = written_in_shortage(engine, scheduler, short_of_memory, asked)
    assert len({tuple(tokens(each)) for each in written}) == len(asked)


def test_a_text_that_goes_on_from_what_was_written_survives_a_shortage(engine, scheduler, short_of_memory):
    written = tokens(engine.generate("It", Composition({"plain": 1}), LONG))[:20]
    expected = list(engine.generate("It", Composition({"plain": 1}), LONG))[20:]
    handle = scheduler.submit("It", Composition({"plain": 1}), LONG, written=written)
    with ThreadPoolExecutor(3) as people:
        others = [
            people.submit(lambda: list(scheduler.generate("So", Composition(), LONG))) for _ in range(3)
        ]
        steps = [event for event in handle.events() if isinstance(event, Step)]
        assert {len(other.result()) for other in others} == {150}
    assert tokens(steps)[: len(expected)] == tokens(expected) and len(steps) == 150
    assert steps[-1].text.startswith(expected[-1].text) and max(short_of_memory) > 2


def test_after_a_while_as_many_as_before_are_tried(engine, scheduler, short_of_memory):
    short, together = Sampling(max_new_tokens=24), Barrier(4)
    clock = [0.0]
    scheduler._capacity = Capacity(scheduler.slots, lambda: clock[0])

    def person(_):
        together.wait()
        return list(scheduler.generate("Now", Composition(), short))

    def crowd():
        short_of_memory.clear()
        with ThreadPoolExecutor(4) as people:
            list(people.map(person, range(4)))
        return max(short_of_memory)

    # Four who come together may on a busy machine come one after the other.
    assert any(crowd() > 2 for _ in range(9))
    assert crowd() <= 2, "the pause is not over, and it was tried again"

    def later():
        clock[0] += capacities.LONGEST
        return crowd()

    # Of three, one went on; that is doubled once a pause.
    assert any(later() > 2 for _ in range(9))


def test_one_text_for_which_memory_is_short_says_so(engine, scheduler, monkeypatch):
    step, start = type(engine.runner).__call__, engine.start

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(type(engine.runner), "__call__", full)
    with pytest.raises(ComposerError, match="memory is not enough for this text; shorten"):
        list(scheduler.generate("Now", Composition(), LONG))
    monkeypatch.setattr(type(engine.runner), "__call__", step)
    monkeypatch.setattr(engine, "start", full)
    with pytest.raises(ComposerError, match="memory is not enough"):
        list(scheduler.generate("Now", Composition(), LONG))
    monkeypatch.setattr(engine, "start", start)
    assert len(list(scheduler.generate("Again", Composition(), Sampling(max_new_tokens=4)))) == 4


def test_a_row_that_needs_more_room_than_was_left_runs_alone(engine, scheduler):
    scheduler._capacity = Capacity(scheduler.slots, lambda: 0.0)
    scheduler._capacity.shrink(2)
    both = Composition(weights={"plain": 1, "rslora": 1}, method="logits")  # three branches
    with ThreadPoolExecutor(2) as people:
        made = [
            people.submit(lambda mix: list(scheduler.generate("So", mix, Sampling(max_new_tokens=5))), mix)
            for mix in (both, Composition())
        ]
        assert [len(each.result(timeout=60)) for each in made] == [5, 5]


def test_a_decoding_thread_that_fails_begins_anew(engine, scheduler, monkeypatch):
    running = scheduler.submit("I was here", Composition(), LONG).events()
    first(running)
    broken, look = Event(), scheduler._next

    def fail_once():
        if not broken.is_set():
            broken.set()
            raise SystemError("nobody foresaw this")
        return look()

    monkeypatch.setattr(scheduler, "_next", fail_once)
    with pytest.raises(ComposerError, match="could not be continued; try again"):
        list(running)
    assert len(list(scheduler.generate("Again", Composition(), Sampling(max_new_tokens=4)))) == 4


def test_pauses_grow_up_to_the_longest_and_begin_anew_after_a_success():
    backoff = Backoff()
    pauses = [backoff.fail() for _ in range(100)]
    assert pauses[:4] == [0, FIRST, 2 * FIRST, 4 * FIRST] and pauses[-1] == LONGEST
    assert pauses == sorted(pauses) and backoff.exhausted
    backoff.succeed()
    assert backoff.fail() == 0 and not backoff.exhausted


def test_a_decoding_thread_that_fails_at_every_turn_pauses_and_tells_those_who_wait(engine, monkeypatch):
    """The clock is the test's: each pause is written down, and ends when the test says so."""
    asked, go_on = SimpleQueue(), SimpleQueue()
    scheduler = Scheduler(engine, slots=1, pause=lambda seconds: (asked.put(seconds), go_on.get(timeout=60)))
    broken, look = Event(), scheduler._next

    def fail():
        if broken.is_set():
            raise SystemError("nobody foresaw this")
        return look()

    monkeypatch.setattr(scheduler, "_next", fail)
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    running = scheduler.submit("I was here", Composition(), LONG).events()
    first(running)
    waiting = [scheduler.submit("I wait", Composition(), LONG, background=late) for late in (False, True)]
    broken.set()
    pauses = [asked.get(timeout=60)]
    with pytest.raises(ComposerError, match="could not be continued; try again"):
        list(running)
    task = scheduler.submit_task(lambda: "done")
    while len(pauses) < ENOUGH - 1:
        assert not task.done() and all(each.outbox.empty() for each in waiting)
        go_on.put(None)
        pauses.append(asked.get(timeout=60))
    assert pauses == [FIRST * 2**n for n in range(ENOUGH - 1)]
    for each in waiting:
        with pytest.raises(ComposerError) as fault:
            list(each.events())
        assert str(fault.value) == FAILING
    assert str(task.exception(timeout=60)) == FAILING and scheduler.busy == 0
    broken.clear()
    go_on.put(None)
    assert len(list(scheduler.generate("Again", Composition(), Sampling(max_new_tokens=4)))) == 4
    assert scheduler._backoff.failures == 0
    scheduler.close()


def test_closing_does_not_wait_for_a_pause(engine, monkeypatch):
    monkeypatch.setattr("composer.engine.backoff.FIRST", 600.0)
    monkeypatch.setattr("composer.engine.backoff.LONGEST", 600.0)
    scheduler, failed = Scheduler(engine, slots=1), Event()
    monkeypatch.setattr(scheduler, "_next", lambda: failed.set() or 1 / 0)
    waiting = scheduler.submit("I wait", Composition(), LONG)
    assert failed.wait(60)
    began = time.monotonic()
    scheduler.close()
    assert time.monotonic() - began < 60
    with pytest.raises(ComposerError, match="shutting down"):
        list(waiting.events())


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_jumps_ends_no_text(engine, scheduler, monkeypatch, jump):
    told = time.time
    expected = tokens(engine.generate("Now", Composition(), LONG))
    events = scheduler.submit("Now", Composition(), LONG).events()
    steps = [first(events)]
    monkeypatch.setattr(time, "time", lambda: told() + jump)
    steps += [event for event in events if isinstance(event, Step)]
    assert tokens(steps) == expected and steps[-1].finish == "length"
    assert 0 <= steps[-1].seconds < 600


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

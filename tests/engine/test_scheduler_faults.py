"""A row that fails, memory that is short, a decoding thread that dies: what others wrote is whole."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Barrier, Event

import pytest
import torch

from composer import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.engine import capacity as capacities
from composer.engine.backoff import ENOUGH, FIRST, LONGEST, Backoff
from composer.engine.capacity import Capacity
from composer.engine.scheduler import FAILING, Scheduler
from tests.tools.scheduled import LONG, REQUESTS, check_same, first, tokens, written_together


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
    written = written_together(scheduler, asked)
    check_same(alone, written)
    assert max(passes) > 2
    return written


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

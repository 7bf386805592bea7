"""What a blocking iterator brings, as the event loop sees it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from contextvars import ContextVar
from queue import SimpleQueue
from threading import Event, get_ident

import pytest

from composer.ui.runners.throttle import throttled

OFTEN = 1000.0


def run(coroutine):
    """The coroutine's result, by another thread's event loop: the browser tests leave one running in this."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


async def gather(items, **options):
    return [burst async for burst in throttled(items, **{"per_second": OFTEN, **options})]


def fed(queue: SimpleQueue):
    """Yields what is put into the queue, up to "end"."""
    while (item := queue.get()) != "end":
        yield item


def test_everything_comes_in_order():
    groups = run(gather(iter_of(range(50))))
    assert [item for burst in groups for item in burst] == list(range(50))
    assert all(groups)


def iter_of(items):
    yield from items


def test_the_first_goes_out_at_once_and_what_comes_meanwhile_together():
    async def watch():
        queue, seen = SimpleQueue(), []
        queue.put(0)
        async with aclosing(throttled(fed(queue), per_second=5)) as groups:
            async for burst in groups:
                seen.append(burst)
                if burst == [0]:  # the next burst is 0.2 s away
                    for item in (1, 2, 3, "end"):
                        queue.put(item)
        return seen

    assert run(watch()) == [[0], [1, 2, 3]]


def test_nothing_makes_no_burst():
    assert run(gather(iter_of(()))) == []


def test_silence_is_an_empty_burst():
    async def watch():
        queue = SimpleQueue()
        async with aclosing(throttled(fed(queue), OFTEN, pulse=0.01)) as groups:
            silence = await anext(groups)
            queue.put("a")
            heard = [burst async for burst in until(groups, "a", queue)]
        return silence, heard[-1]

    assert run(watch()) == ([], ["a"])


async def until(groups, item, queue):
    async for burst in groups:
        yield burst
        if item in burst:
            queue.put("end")
            return


def test_nones_are_not_handed_on():
    assert run(gather(iter_of([None, "a", None]))) == [["a"]]


def test_a_fault_comes_after_what_came_before_it():
    def faulty():
        yield "a"
        raise KeyError("fault")

    async def watch():
        seen = []
        with pytest.raises(KeyError, match="fault"):
            async for burst in throttled(faulty(), OFTEN):
                seen += burst
        return seen

    assert run(watch()) == ["a"]


def test_the_iterator_runs_in_a_thread_of_its_own_and_in_the_callers_context():
    visitor = ContextVar("visitor")

    def who():
        yield get_ident(), visitor.get()

    async def watch():
        visitor.set("me")
        return await gather(who())

    [[(thread, name)]] = run(watch())
    assert name == "me" and thread != get_ident()


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_leaving_closes_the_iterator_and_waits_for_nothing(how):
    closed, go_on = Event(), Event()

    def without_eos():
        try:
            yield "first"
            go_on.wait()
            while True:
                yield None
        finally:
            closed.set()

    async def listen(heard):
        async with aclosing(throttled(without_eos(), OFTEN)) as groups:
            async for burst in groups:
                heard.set_result(burst)
                if how == "close":
                    return

    async def leave():
        heard = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(listen(heard))
        assert await heard == ["first"]
        if how == "cancel":
            task.cancel()
        await asyncio.wait([task])
        assert not closed.is_set()  # the iterator is still busy, and nobody waited for it

    run(leave())
    go_on.set()
    assert closed.wait(60)


def test_a_consumer_whose_loop_is_closed_raises_nothing(recwarn):
    closed, go_on = Event(), Event()

    def late():
        try:
            yield "first"
            go_on.wait()
            yield "second"
        finally:
            closed.set()

    async def listen():
        groups = throttled(late(), OFTEN)
        await anext(groups)
        return groups

    run(listen())
    go_on.set()
    assert closed.wait(60)

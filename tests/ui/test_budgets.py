"""What visitors may have written: counted as it comes, refused with when to come back."""

from __future__ import annotations

import copy
import re
from contextlib import closing

import pytest

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.ui.runners.batched import BatchedRunner
from composer.ui.runners.budgets import Budgets, Usage
from composer.ui.settings import Settings
from composer.ui.validation import Request
from composer.ui.visitors import ADDRESSES, Budget, Programs, Visitor
from tests.tools import tiny


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def write(budgets, usage, tokens, texts=1):
    with budgets.writing(usage, texts) as spend:
        for _ in range(tokens):
            spend(1)


def seconds(fault) -> int:
    return int(re.search(r"again in (\d+) second", str(fault.value))[1])


def test_what_is_used_up_comes_back_by_the_second(clock):
    budgets, usage = Budgets(visitor_tokens=60, clock=clock), Usage()
    write(budgets, usage, 90)  # a text that has begun is written to its end
    with pytest.raises(ComposerError, match=r"You have used up .* 60 tokens a minute") as fault:
        write(budgets, usage, 1)
    clock.now += seconds(fault) - 2
    with pytest.raises(ComposerError):
        write(budgets, usage, 1)
    clock.now += 2
    write(budgets, usage, 1)


def test_who_waits_as_long_as_the_sentence_says_is_let_in(clock):
    for limit, tokens in ((7, 7), (60, 61), (1000, 5000), (100_000, 100_001)):
        budgets, usage = Budgets(visitor_tokens=limit, clock=clock), Usage()
        write(budgets, usage, tokens)
        with pytest.raises(ComposerError) as fault:
            write(budgets, usage, 1)
        clock.now += seconds(fault)
        write(budgets, usage, 1)


def test_one_visitor_s_use_is_no_other_s_and_all_share_one(clock):
    budgets, one, other = Budgets(60, 100, clock=clock), Usage(), Usage()
    write(budgets, one, 60)
    with pytest.raises(ComposerError, match="You have"):
        write(budgets, one, 1)
    write(budgets, other, 50)
    with pytest.raises(ComposerError, match="All visitors together have"):
        write(budgets, Usage(), 1)


def test_texts_at_once_count_until_they_end_also_by_a_fault(clock):
    budgets, usage = Budgets(visitor_texts=2, clock=clock), Usage()
    with budgets.writing(usage), budgets.writing(usage):
        with pytest.raises(ComposerError, match="You have 2 in progress of the 2 texts"):
            write(budgets, usage, 1)
        write(budgets, Usage(), 1)  # another visitor's
    with pytest.raises(ZeroDivisionError), budgets.writing(usage, 2):
        raise ZeroDivisionError
    assert usage.texts == 0


def test_without_limits_nothing_is_refused_and_nothing_kept(clock):
    budgets, usage = Budgets(clock=clock), Usage()
    for _ in range(20):
        write(budgets, usage, 10_000, texts=100)
    assert usage == Usage()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return tiny.engine("llama", tiny.three_unlike(tmp_path_factory.mktemp("llama"), "llama"))


def ask(usage, tokens=4):
    return Request("I go", Composition({"plain": 1}), Sampling(tokens, seed=1), usage=usage)


def test_a_runner_s_texts_count_however_they_are_asked_for(engine, clock, monkeypatch):
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    budgets, usage = Budgets(visitor_tokens=1000, visitor_texts=3, clock=clock), Usage()
    with closing(BatchedRunner(engine, Settings(), budgets=budgets)) as runner:
        assert sum(isinstance(each, Step) for each in runner.run(ask(usage), engine.names)) == 4
        assert usage.tokens == 4
        most, news = 0, runner.run_many([ask(usage)] * 5, engine.names)
        for _ in news:
            most = max(most, usage.texts)
        assert usage.tokens == 24 and most == 3
        list(runner.explain(ask(usage), engine.names))
        assert usage.tokens == 28 and usage.texts == 0

        clock.now += 60
        items = runner.run(ask(usage, 100), engine.names)
        next(each for each in items if isinstance(each, Step))
        items.close()  # the visitor stops
        assert usage.texts == 0 and 1 <= usage.tokens < 100
        with budgets.writing(usage, 3), pytest.raises(ComposerError, match="in progress"):
            list(runner.run(ask(usage), engine.names))


def test_texts_that_could_not_be_written_cost_nothing(engine, clock):
    budgets, usage = Budgets(visitor_tokens=1000, clock=clock), Usage()
    bad = Request("Hi", Composition({"nobody": 1}), Sampling(50), usage=usage)
    with closing(BatchedRunner(engine, Settings(), budgets=budgets)) as runner:
        news = [each for _, each in runner.run_many([bad, bad], engine.names) if each is not None]
    assert len(news) == 2 and all(isinstance(each, ComposerError) for each in news)
    assert usage.tokens == 0


def test_gradio_can_copy_a_visitor_and_counts_each_apart():
    first, second = copy.deepcopy(Visitor()), copy.deepcopy(Visitor())
    first.usage.texts = 1
    assert second.usage.texts == 0


def test_a_program_s_use_is_its_address_s_and_old_ones_are_forgotten():
    programs = Programs(lambda: None, Budget(1, 1e6))
    usage = programs.visitor("10.0.0.1")[0].usage
    assert programs.visitor("10.0.0.1")[0].usage is usage
    assert programs.visitor("10.0.0.2")[0].usage is not usage
    for number in range(ADDRESSES):
        programs.visitor(str(number))
    assert programs.visitor("10.0.0.1")[0].usage is not usage

"""Many visitors of one engine: the words are those of Engine.generate, and the pictures come in time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from composer.analysis.text_reading import TextReading, read_text
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.engine import scheduler
from composer.engine.prompt_analyzer import PromptAnalyzer
from composer.engine.resolve import lane_names
from composer.engine.scheduler import QueueUpdate
from composer.evaluation.best_of_n import choice_scores
from composer.evaluation.scoring import perplexities
from composer.methods import fuse
from composer.ui.runners.base import MergeStarted, Withdrawn
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from composer.ui.validation import Request
from tests.tools import tiny

LONG = Request("I stay", Composition(weights={"plain": 1}), Sampling(max_new_tokens=150, seed=3))
SHORT = Request("I go", Composition(weights={"rslora": 1, "plain": 0.5}), Sampling(max_new_tokens=5, seed=4))
KL = Request("Who?", Composition(weights={"rslora": 1, "plain": 1}, method="kl"), Sampling(6, seed=5))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return tiny.engine("llama", tiny.three_unlike(tmp_path_factory.mktemp("llama"), "llama"))


@pytest.fixture
def batched(engine, monkeypatch):
    # A text must not end early, or there is no company.
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    # Nor may it end before somebody hears for the first time that they have to wait.
    monkeypatch.setattr(scheduler, "POLL", 0.01)
    made = BatchedRunner(engine, Settings(slots=2, queue_size=1, max_new_tokens=150))
    yield made
    made.close()


def run(batched, request, read=False):
    return batched.run(request, batched.engine.names, read)


def ask(prompt, composition, written=()):
    return Request(prompt, composition, Sampling(), tuple(written))


def follow(items):
    """What a visitor is told, without the moments to leave."""
    return [item for item in items if item is not None and item != QueueUpdate(0)]


def begin(batched, request=LONG):
    """A visitor who has their first word, and what they were told up to then."""
    items, told = run(batched, request), []
    for item in items:
        told += [] if item is None else [item]
        if isinstance(item, Step):
            return items, told


def expected(engine, request, told):
    """Whether the steps are the engine's own for the same request."""
    alone = list(engine.generate(request.prompt, request.composition, request.sampling))
    steps = [item for item in told if isinstance(item, Step)]
    assert [step.token for step in steps] == [step.token for step in alone]
    assert steps[-1].text == alone[-1].text and steps[-1].finish == "length"
    for mine, reference in zip(steps, alone, strict=True):
        np.testing.assert_allclose(mine.contribution, reference.contribution, rtol=1e-3, atol=1e-5)
    return True


def test_alone_the_fusion_weights_come_first(engine, batched):
    told = follow(run(batched, SHORT))
    np.testing.assert_allclose(told[0].kl, engine.fusion(SHORT.prompt).kl, atol=1e-5)
    assert all(isinstance(item, Step) for item in told[1:])
    assert expected(engine, SHORT, told)


def test_the_finished_text_is_read_once_more(engine, batched):
    *before, reading = follow(run(batched, SHORT, read=True))
    steps = [item for item in before if isinstance(item, Step)]
    assert isinstance(reading, TextReading) and reading.adapters == ("plain", "rslora")
    tokens = [step.token for step in steps]
    alone = read_text(engine, SHORT.prompt, tokens, SHORT.composition)
    np.testing.assert_allclose(reading.attribution.raised, alone.attribution.raised, atol=1e-4)


@pytest.mark.parametrize("asked", [{"schedule": {"plain": [2, 3]}}, {"method": "kl", "live": 2}])
def test_a_text_whose_weights_changed_is_whole_without_a_reading(batched, asked):
    request = Request("Who?", Composition({"rslora": 1, "plain": 1}, **asked), Sampling(5, seed=4))
    told = follow(run(batched, request, read=True))
    assert sum(isinstance(item, Step) for item in told) == 5
    assert not any(isinstance(item, TextReading) for item in told)


def test_a_text_goes_on_from_what_is_written(engine, batched):
    whole = list(engine.generate(SHORT.prompt, SHORT.composition, SHORT.sampling))
    rest = replace(SHORT, written=tuple(step.token for step in whole[:3]))
    rest = replace(rest, sampling=replace(SHORT.sampling, max_new_tokens=2))
    steps = [item for item in follow(run(batched, rest)) if isinstance(item, Step)]
    assert [(step.index, step.token) for step in steps] == [(s.index, s.token) for s in whole[3:]]
    assert steps[-1].text == whole[-1].text


def test_several_run_as_rows_of_everybodys_batch(engine, batched):
    bad = Request("Hi", Composition({"nobody": 1}), Sampling())
    requests, told = [SHORT, KL, bad, SHORT], {}
    for index, news in batched.run_many(requests, engine.names):
        if news is not None:
            told.setdefault(index, []).append(news)
    for index in (0, 1, 3):
        assert expected(engine, requests[index], told[index])
    (fault,) = told[2]
    assert isinstance(fault, ComposerError) and "nobody" in str(fault)


def test_leaving_a_comparison_frees_its_slots(batched):
    items = batched.run_many([LONG, LONG, LONG], batched.engine.names)
    assert any(isinstance(news, Step) for _, news in items)
    items.close()
    assert expected(batched.engine, SHORT, list(run(batched, SHORT)))


def test_next_words_that_nobody_waits_for_are_withdrawn(batched):
    held = Event()
    batched.scheduler.submit_task(held.wait)
    with pytest.raises(Withdrawn):
        batched.next_tokens(ask("Who?", Composition({"plain": 1})), batched.engine.names, lambda: True)
    held.set()
    assert batched.next_tokens(ask("Who?", Composition({"plain": 1})), batched.engine.names).adapters == (
        "plain",
    )


def test_next_words_after_what_is_written(engine, batched):
    composition = Composition({"plain": 1})
    after = batched.next_tokens(ask("Who?", composition, (65, 66)), engine.names)
    np.testing.assert_allclose(
        after.composed,
        batched.next_tokens(ask("Who?AB"[:4], composition, [65, 66]), engine.names).composed,
        atol=1e-6,
    )
    assert after.tokens != batched.next_tokens(ask("Who?", composition), engine.names).tokens


def test_perplexities_are_the_engines(engine, batched):
    texts = [("Who?", " Me"), ("Hi", ""), ("Hi", " there")]
    got = batched.perplexities(texts)
    assert got[1] is None
    np.testing.assert_allclose([got[0], got[2]], [perplexities(engine, texts)[i] for i in (0, 2)], rtol=1e-4)


def test_evidence_is_the_engines(engine, batched):
    asked = Request("Who?", Composition({"plain": 1, "rslora": -0.5}), Sampling())
    texts = [" who", " runs far", ""]
    expected = choice_scores(engine, asked.composition, asked.prompt, texts)
    np.testing.assert_allclose(batched.choice_scores(asked, texts), expected, atol=1e-4)


def test_in_a_busy_batch_fusion_weights_come_after_the_text(engine, batched):
    company, _ = begin(batched)
    with closing(company):
        told = follow(run(batched, SHORT))
    assert [type(item) for item in told] == [Step] * 5 + [Fusion]
    np.testing.assert_allclose(told[-1].kl, engine.fusion(SHORT.prompt).kl, atol=1e-5)
    assert expected(engine, SHORT, told)


def test_in_a_busy_batch_a_method_that_needs_fusion_weights_has_them_first(engine, batched):
    company, _ = begin(batched)
    with closing(company):
        told = follow(run(batched, KL))
    assert [type(item) for item in told] == [Fusion] + [Step] * 6
    assert expected(engine, KL, told)


def test_running_texts_come_before_another_visitors_prefill(batched):
    read = Event()
    batched.scheduler.submit_task(read.wait)
    items = run(batched, SHORT)
    assert next(items) in (None, QueueUpdate(0))
    read.set()
    assert [type(item) for item in follow(items)] == [Step] * 5 + [Fusion]


def test_leaving_while_a_fusion_waits_cancels_it(engine, batched, monkeypatch):
    read, asked = Event(), []
    monkeypatch.setattr(engine, "fusion", lambda *given: asked.append(given))
    batched.scheduler.submit_task(read.wait)
    items = run(batched, KL)
    assert next(items) is None
    items.close()
    read.set()
    assert batched.scheduler.submit_task(lambda: "after it").result(60) == "after it"
    assert not asked


def test_all_at_once(engine, batched):
    requests = [LONG, SHORT, KL]
    with ThreadPoolExecutor(3) as people:
        for request, told in zip(
            requests, people.map(lambda each: follow(run(batched, each)), requests), strict=True
        ):
            assert expected(engine, request, told)
            assert sum(isinstance(item, Fusion) for item in told) == 1


def test_a_waiting_request_gets_its_queue_position_and_its_turn(engine, batched):
    (first, _), (second, _) = begin(batched), begin(batched)
    third = run(batched, SHORT)
    assert next(item for item in third if item is not None) == QueueUpdate(1)
    first.close()
    rest = list(third)
    assert rest[0] in (None, QueueUpdate(0)) or isinstance(rest[0], Step)
    assert expected(engine, SHORT, rest)
    second.close()


def test_a_full_server_says_so_before_any_work(batched, monkeypatch):
    (first, _), (second, _) = begin(batched), begin(batched)
    third = run(batched, SHORT)
    assert next(item for item in third if item is not None) == QueueUpdate(1)
    monkeypatch.setattr(type(batched.engine), "fusion", None)  # whoever read a prompt now would fail
    with pytest.raises(ComposerError, match="2 running, 1 queued"):
        next(run(batched, KL))
    for items in (third, first, second):
        items.close()


@pytest.mark.parametrize("when", ["in the queue", "at work"])
def test_leaving_frees_the_place(engine, batched, when):
    visitors = [begin(batched)[0], begin(batched)[0], run(batched, LONG)]
    assert next(item for item in visitors[2] if item is not None) == QueueUpdate(1)
    visitors.pop(2 if when == "in the queue" else 0).close()
    newcomer = run(batched, SHORT)
    assert next(item for item in newcomer if item is not None) == QueueUpdate(1)
    for items in visitors:
        items.close()
    assert expected(engine, SHORT, list(newcomer))


def test_a_bad_request_takes_no_place(batched):
    with pytest.raises(ComposerError, match="empty"):
        next(run(batched, Request("", Composition(), Sampling())))
    with pytest.raises(ComposerError, match="nobody"):
        list(run(batched, Request("Hi", Composition(weights={"nobody": 1}), Sampling())))
    assert batched.scheduler.busy == 0


def test_an_adapter_that_comes_in_has_no_part_in_what_was_asked_before(tmp_path, monkeypatch):
    folders = tiny.three_unlike(tmp_path, "llama")
    late = folders.pop("patterned")
    engine = tiny.engine("llama", folders)
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    # Nor may it end before somebody hears for the first time that they have to wait.
    monkeypatch.setattr(scheduler, "POLL", 0.01)
    with closing(BatchedRunner(engine, Settings())) as batched:
        items = run(batched, SHORT)
        assert batched.added.add(str(late))[0].ok and engine.names[-1] == "patterned"
        told = follow(items)
    assert told[0].kl.shape[1] == 2
    assert {item.contribution.shape[1] for item in told[1:]} == {2}


def test_fuse_reads_one_prompt(engine, batched):
    fusion = batched.fuse("Who?", ("rslora", "plain"), False, "all")
    expected = engine.fusion("Who?", ("rslora", "plain"), False, "all")
    np.testing.assert_allclose(fusion.kl, expected.kl, atol=1e-6)


@pytest.mark.parametrize("asked", [{"method": "kl", "tokens": "all"}, {"method": "pico-kl"}])
def test_the_fusion_that_is_shown_is_the_one_that_is_used(engine, batched, asked, monkeypatch):
    composition = Composition({"rslora": 1, "plain": 0.5}, **asked)
    read = []
    plainly = PromptAnalyzer.__call__
    with monkeypatch.context() as patch:
        patch.setattr(PromptAnalyzer, "__call__", lambda *given: read.append(given) or plainly(*given))
        told = follow(run(batched, Request("Who are you?", composition, Sampling(3, seed=4))))
    [shown] = [each for each in told if isinstance(each, Fusion)]
    own = engine.resolve(composition)
    part = own.weights != 0
    gates = engine.row(0, "Who are you?", composition, Sampling()).mixture.gates[0][:, own.columns]
    shared = fuse(shown.kl, part).alpha * part.sum() * own.weights
    np.testing.assert_allclose(gates, shared, rtol=1e-3, atol=1e-5)
    assert not read, "the prompt was read once, by who shows it"


@pytest.mark.parametrize("method", ["svd", "pico"])
def test_what_is_made_of_adapters_is_made_first_and_has_its_lane(engine, batched, method):
    request = Request("Who?", Composition({"rslora": 1, "plain": 0.5}, method), Sampling(5, seed=4))
    told = follow(run(batched, request))
    steps = [item for item in told if isinstance(item, Step)]
    shown = lane_names(request.composition, batched.engine.names)
    assert shown == (*engine.names, *(["svd"] if method == "svd" else []))
    assert steps[0].contribution.shape == (engine.model.layers, len(shown))
    assert expected(engine, request, told)


def test_a_merge_is_announced_and_can_be_cancelled(engine, batched, monkeypatch):
    begun, go = Event(), Event()
    resolve = engine.resolve

    def slow(composition, *given, **named):
        begun.set()
        go.wait(10)
        return resolve(composition, *given, **named)

    monkeypatch.setattr(engine, "resolve", slow)
    request = Request("Who?", Composition({"rslora": 1, "plain": -0.3}, "ties"), Sampling(5))
    items = run(batched, request)
    assert next(items) == MergeStarted() and next(items) is None
    assert begun.is_set()
    go.set()
    items.close()
    company, _ = begin(batched)
    company.close()

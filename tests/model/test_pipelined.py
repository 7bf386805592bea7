"""Passes that start before the host has seen the last tokens give what passes one by one give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from composer import Composition, Engine, Sampling
from composer.core.errors import ComposerError
from composer.engine.scheduler import Scheduler
from composer.engine.session import DecodeSession
from composer.model.runtime import batch as module
from composer.model.runtime.batch import Batch
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.transfer import HostCopy, packed, unpacked
from tests.tools import tiny
from tests.tools.caches import overwrite

REQUESTS = [
    ("abc", Composition(), Sampling(max_new_tokens=9, temperature=0)),
    ("a longer beginning", Composition({"plain": 1, "rslora": 0.5}), Sampling(max_new_tokens=14, seed=1)),
    ("b", Composition({"plain": 1, "rslora": 1}, "logits"), Sampling(max_new_tokens=6, seed=2, top_k=0)),
    (
        "Hello there",
        Composition({"plain": 1, "rslora": 1}, "kl", live=3),
        Sampling(max_new_tokens=11, seed=3, repetition_penalty=1.3),
    ),
    ("who", Composition({"plain": 1, "rslora": 1}, "arrow"), Sampling(max_new_tokens=12, seed=4)),
]


def sessions(engine: Engine, pipelined: bool, slots: int = 10) -> DecodeSession:
    batch = Batch(engine.runner, engine.snapshot.layout, engine.end_tokens, slots, 128, pipelined)
    return DecodeSession(batch, lambda: engine.snapshot, engine.base.tokenizer, engine.end_tokens)


def overwriting(run):
    """A capture as CUDA's: each replay writes its outputs over those of the one before."""
    kept = []

    def replay():
        logits, telemetry = run()
        own = [logits] if telemetry is None else [logits, telemetry.coded, telemetry.energy]
        kept.extend(each.clone() for each in own[len(kept) :])
        for mine, his in zip(kept, own, strict=True):
            mine.copy_(his)
        if telemetry is not None:
            telemetry = replace(telemetry, coded=kept[1], energy=kept[2])
        return kept[0], telemetry

    return replay


@pytest.fixture(scope="module", params=["plain", "graphs"])
def engine(request, tmp_path_factory):
    made = tiny.engine("llama", tiny.three_unlike(tmp_path_factory.mktemp("llama"), "llama"))
    made.end_tokens = frozenset()
    if request.param == "graphs":
        made.runner = CudaGraphRunner(made.runner.inner, overwriting)
    return made


def told(session: DecodeSession, engine: Engine, late: dict[int, list[int]] | None = None) -> dict:
    """The steps of every row: all from the start, or after so many steps those that join `late`."""
    late = {0: [*range(len(REQUESTS))]} if late is None else late
    steps: dict[int, list] = {row: [] for rows in late.values() for row in rows}
    turn = 0
    while session.keys or turn <= max(late):
        if turn in late:
            outcomes = session.add([engine.row(row, *REQUESTS[row]) for row in late[turn]])
        else:
            outcomes = session.step() if session.keys else []
        for step in outcomes:
            steps[step.row].append(step)
        turn += 1
    return steps


def same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for row in one:
        for mine, his in zip(one[row], other[row], strict=True):
            same_words = replace(mine, seconds=0, contribution=0) == replace(his, seconds=0, contribution=0)
            assert same_words
            np.testing.assert_array_equal(mine.contribution, his.contribution)


def test_tokens_telemetry_and_finishes_are_the_same(engine):
    expected = told(sessions(engine, False), engine)
    assert [len(steps) for steps in expected.values()] == [9, 14, 6, 11, 12]
    same(told(sessions(engine, True), engine), expected)


@pytest.mark.parametrize("late", [{0: [0], 3: [1, 2], 5: [3], 12: [4]}, {0: [3, 4], 8: [0], 9: [1, 2]}])
def test_rows_that_join_later_get_what_they_get_alone(engine, late):
    alone = {row: told(sessions(engine, False), engine, {0: [row]})[row] for row in range(len(REQUESTS))}
    together = told(sessions(engine, True), engine, late)
    for row, steps in together.items():
        assert [step.token for step in steps] == [step.token for step in alone[row]]
        assert [step.index for step in steps] == [*range(len(steps))]
        assert [step.finish for step in steps] == [step.finish for step in alone[row]]


def test_a_token_after_the_end_is_dropped_and_its_place_is_cleared(engine, monkeypatch):
    free = told(sessions(engine, False), engine)
    ends = frozenset({free[0][3].token, free[1][5].token})
    monkeypatch.setattr(engine, "end_tokens", ends)
    expected = told(sessions(engine, False), engine)
    assert any(steps[-1].finish == "end" for steps in expected.values())
    session = sessions(engine, True)
    same(told(session, engine), expected)
    assert session._batch._launched is None
    assert not any(buffer[:, :, 1:].any() for buffer in session._batch._cache.buffers)


def test_gates_are_refreshed_at_the_same_tokens(engine):
    seen: dict[bool, list[int]] = {True: [], False: []}
    for pipelined, lengths in seen.items():
        session = sessions(engine, pipelined)
        rows = [engine.row(row, *REQUESTS[row]) for row in range(2)]
        for row, every in zip(rows, (0, 4), strict=True):
            row.refresh_every = every
            row.refresh_after = frozenset({6, 7}) if every else frozenset()

            def refresh(ids, mixture=row.mixture, lengths=lengths):
                lengths.append(len(ids))
                return mixture

            row.refresh_gates = refresh
        session.add(rows)
        while session.keys:
            session.step()
    assert seen[True] == seen[False] and len(seen[True]) == 5


def test_the_next_pass_starts_before_the_tokens_are_read(engine, monkeypatch):
    events = []

    class Watched(HostCopy):
        def __call__(self):
            events.append("read")
            return super().__call__()

    class Watching:
        prepare, read = staticmethod(engine.runner.prepare), staticmethod(engine.runner.read)

        def __call__(self, *given):
            events.append("start")
            return engine.runner(*given)

    monkeypatch.setattr(module, "HostCopy", Watched)
    for pipelined, expected in (
        (True, ["start", "start", "read", "start", "read", "start", "read", "read"]),
        (False, ["start", "read"] * 4),
    ):
        layout = engine.snapshot.layout
        batch = Batch(Watching(), layout, frozenset(), 1, 128, pipelined)
        batch.add([engine.row(0, "abc", Composition(), Sampling(max_new_tokens=5))], layout)
        events.clear()
        for _ in range(4):
            batch.step()
        assert events == expected


def test_a_row_that_is_removed_while_a_pass_is_ahead_changes_nothing_for_the_others(engine):
    expected = told(sessions(engine, False), engine)
    for gone in range(len(REQUESTS)):
        session = sessions(engine, True)
        steps = session.add([engine.row(row, *REQUESTS[row]) for row in range(len(REQUESTS))])
        steps += session.step()
        assert session._batch._launched is not None
        session.remove([gone])
        while session.keys:
            steps += session.step()
        for row in set(expected) - {gone}:
            assert [step.token for step in steps if step.row == row] == [step.token for step in expected[row]]
        assert len([step for step in steps if step.row == gone]) == 2


def test_a_scheduler_serves_the_same_texts(engine, monkeypatch):
    expected = {row: [step.token for step in engine.generate(*REQUESTS[row])] for row in range(5)}
    monkeypatch.setattr(engine, "start", lambda slots, _: sessions(engine, True, slots))
    scheduler = Scheduler(engine, slots=4, max_seq_len=128)
    try:
        for _ in range(2):
            handles = [scheduler.submit(*request) for request in REQUESTS]
            for row, handle in enumerate(handles):
                got = [event.token for event in handle.events() if hasattr(event, "token")]
                assert got == expected[row]
    finally:
        scheduler.close()


def test_a_row_that_overflows_beside_a_pass_ahead_fails_alone(engine):
    session = sessions(engine, True)
    session.add([engine.row(row, *REQUESTS[row]) for row in (0, 1)])
    session.step()
    healthy, sick = session._batch.rows
    # From its newest place on, what row 1 reads is not finite.
    overwrite(session._batch._cache, 1, 2, float("nan"))
    outcomes = [each for _ in range(4) for each in session.step()]
    faults = [each for each in outcomes if hasattr(each, "fault")]
    assert [each.row for each in faults] == [sick.key] and isinstance(faults[0].fault, ComposerError)
    expected = told(sessions(engine, False), engine, {0: [0]})[0]
    prompt = len(engine.base.encode(REQUESTS[0][0]))
    assert healthy.ids[prompt:] == [step.token for step in expected][: len(healthy.ids) - prompt]
    assert not any(buffer[1, :, 1:].any() for buffer in session._batch._cache.buffers)


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_packed_comes_out_to_the_bit(count):
    torch.manual_seed(0)
    tokens = torch.tensor([-1, 7, 2**40][:count])
    shares = torch.randn(count, 5, 3)
    shares[0, 0] = torch.tensor([float("nan"), float("inf"), -0.0])
    words = packed([tokens, shares.transpose(1, 2)])
    assert words.dtype == torch.int32 and words.dim() == 1
    out, back = unpacked(words, [tokens, shares.transpose(1, 2)])
    assert torch.equal(out, tokens)
    assert torch.equal(back.view(torch.int32), shares.transpose(1, 2).contiguous().view(torch.int32))

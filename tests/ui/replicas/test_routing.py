"""Which replica a visitor is given, and when they are moved."""

from __future__ import annotations

import pytest

from composer.core.errors import ComposerError
from composer.ui.replicas.routing import NO_REPLICA, SETTLING, Member, ReplicaTable


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def two(clock) -> ReplicaTable:
    routing = ReplicaTable(clock)
    routing.update([member("a"), member("b")])
    return routing


def member(key: str, draining: bool = False) -> Member:
    return Member(key, "127.0.0.1", 1, 1, draining)


def where(routing: ReplicaTable, *visitors: str) -> str:
    return "".join(routing.choose(each).key for each in visitors)


def test_visitors_are_spread_and_stay_where_they_are(two):
    first = where(two, "v", "w", "x", "y")
    assert first.count("a") == first.count("b") == 2
    assert where(two, "v", "w", "x", "y") == first


def test_nobody_moves_when_a_replica_joins(two):
    first = where(two, "v", "w", "x", "y")
    two.update([member("a"), member("b"), member("c")])
    assert where(two, "v", "w", "x", "y") == first
    assert where(two, "z") == "c", "the newcomer is the emptiest"


def test_visitors_of_one_that_is_lost_move_and_others_stay(two):
    first = dict(zip("vwxy", where(two, *"vwxy"), strict=True))
    two.lose("a")
    assert where(two, *"vwxy") == "bbbb"
    two.update([member("b"), member("c")])
    assert where(two, *"vwxy") == "bbbb", "and stay there when another one takes its place"
    assert "a" in first.values()


def test_where_there_is_none_the_sentence_says_when_there_will_be_one(clock):
    with pytest.raises(ComposerError, match="Try again in a minute") as told:
        ReplicaTable(clock).choose("v")
    assert str(told.value) == NO_REPLICA


def test_a_draining_one_keeps_who_reads_a_text_and_nobody_else(two, clock):
    first = dict(zip("vw", where(two, "v", "w"), strict=True))
    clock.now += 2 * SETTLING
    reader, idle = next(each for each in "vw" if first[each] == "a"), "late"
    with two.request(reader):
        two.update([member("a", draining=True), member("b")])
        assert where(two, reader) == "a" and two.busy("a")
        assert where(two, idle) == "b"
    assert two.busy("a"), "the stream of an event is opened a moment after the event was asked for"
    clock.now += SETTLING
    assert not two.busy("a")
    assert where(two, reader) == "b"


def test_a_draining_one_is_better_than_none(two):
    two.update([member("a", draining=True)])
    assert where(two, "v") == "a"


def test_who_left_long_ago_weighs_nothing(two, clock):
    for each in ("a1", "a2", "a3", "a4"):
        where(two, each)
    clock.now += 7200
    assert sorted(where(two, "v", "w")) == ["a", "b"]


def test_a_million_strangers_are_not_all_remembered(clock, monkeypatch):
    monkeypatch.setattr("composer.ui.replicas.routing.MOST_VISITORS", 10)
    routing = ReplicaTable(clock)
    routing.update([member("a")])
    for each in range(50):
        routing.choose(str(each))
    assert len(routing._places) == 10

"""A stream of Gradio's events that is cut ends with a sentence for each event that is waited for."""

from __future__ import annotations

import json

import pytest

from composer.ui.replicas import events
from composer.ui.replicas.events import CUT, EventStream, PendingEvents, event_of, session_of


def message(**content: object) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def read(sent: bytes) -> list[dict]:
    return [json.loads(each.removeprefix(b"data: ")) for each in sent.split(b"\n\n") if each]


@pytest.fixture
def pending() -> PendingEvents:
    pending = PendingEvents()
    for event in ("one", "two"):
        pending.join("s", event)
    pending.join("other", "theirs")
    return pending


def test_messages_pass_whole_and_as_they_are(pending):
    stream = EventStream(pending, "s")
    sent = message(msg="process_generating", event_id="one", output={"data": ["a\\n\\nb"]})
    pieces = [stream.feed(sent[:7]), stream.feed(sent[7:-1]), stream.feed(sent[-1:])]
    assert pieces == [b"", b"", sent]


def test_a_cut_stream_ends_with_an_error_of_each_event_that_is_pending(pending):
    stream = EventStream(pending, "s")
    stream.feed(message(msg="process_completed", event_id="one", output={}, success=True))
    stream.feed(b'data: {"msg":"process_gener')  # cut in the middle of a message
    first, last = read(stream.end())
    assert (first["msg"], first["event_id"], first["success"]) == ("process_completed", "two", False)
    assert first["output"]["error"] == CUT and "Press Generate again" in CUT
    assert last == {"msg": "close_stream"}
    assert pending.take("s") == () and pending.take("other") == ("theirs",)


def test_a_stream_that_ended_by_itself_has_nothing_added(pending):
    stream = EventStream(pending, "s")
    for event in ("one", "two"):
        stream.feed(message(msg="process_completed", event_id=event, output={}, success=True))
    stream.feed(message(msg="close_stream", event_id=None))
    assert stream.end() == b""


def test_a_text_that_speaks_of_completion_completes_nothing(pending):
    stream = EventStream(pending, "s")
    stream.feed(message(msg="process_generating", event_id="one", output={"data": ['"process_completed"']}))
    assert pending.take("s") == ("one", "two")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"session_hash": 3}', b"[" * 9999])
def test_what_is_no_request_for_an_event_names_no_session(body):
    assert session_of(body) is None and event_of(body) is None


def test_endless_events_are_not_all_remembered(monkeypatch):
    monkeypatch.setattr(events, "MOST_EVENTS", 5)
    monkeypatch.setattr(events, "MOST_SESSIONS", 3)
    pending = PendingEvents()
    for session in range(20):
        for event in range(20):
            pending.join(str(session), str(event))
    assert len(pending._sessions) == 3 and pending.take("19") == ("15", "16", "17", "18", "19")

"""What a cut stream ends with: the events of Gradio that a page still waits for, each given a sentence.

Gradio answers an event in two requests: POST queue/join returns its id, and one stream for each session,
GET queue/data, carries the messages of all its events. `call/NAME` does the same for programs.
"""

from __future__ import annotations

import json

# Of the events of one session, which nobody needs who sends more at once.
MOST_EVENTS = 1000
MOST_SESSIONS = 10_000
CUT = "The replica that wrote this text has ended. Press Generate again: another one goes on."


class PendingEvents:
    """Events that were joined and have not been completed, by session."""

    def __init__(self) -> None:
        self._sessions: dict[str, dict[str, None]] = {}

    def join(self, session: str, event: str) -> None:
        events = self._sessions.setdefault(session, {})
        events[event] = None
        if len(events) > MOST_EVENTS:
            del events[next(iter(events))]
        if len(self._sessions) > MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]

    def complete(self, session: str, event: str) -> None:
        events = self._sessions.get(session, {})
        events.pop(event, None)
        if not events:
            self._sessions.pop(session, None)

    def take(self, session: str) -> tuple[str, ...]:
        """The session's events, which are pending no more."""
        return tuple(self._sessions.pop(session, {}))


class EventStream:
    """Reads the stream of a session as it passes, so that it can be ended where it is cut."""

    def __init__(self, pending: PendingEvents, session: str):
        self._pending, self._session = pending, session
        self._rest = b""
        self._closed = False

    def feed(self, chunk: bytes) -> bytes:
        """The whole messages that there are now. The rest of the chunk waits for its end."""
        whole, mark, rest = (self._rest + chunk).rpartition(b"\n\n")
        self._rest = rest
        for message in whole.split(b"\n\n"):
            self._read(message)
        return whole + mark

    def end(self) -> bytes:
        """What is to be sent after the last message: nothing where the stream ended by itself, else an error
        of each event that is pending."""
        if self._closed:
            return b""
        events = self._pending.take(self._session)
        return b"".join(_message(_failed(event)) for event in events) + _message({"msg": "close_stream"})

    def _read(self, message: bytes) -> None:
        # Only these two are parsed: the others are long, and there are twelve a second.
        head = message[:80]
        if b'"process_completed"' not in head and b'"close_stream"' not in head:
            return
        try:
            found = json.loads(message.removeprefix(b"data:"))
        except ValueError:
            return
        if found.get("msg") == "close_stream":
            self._closed = True
        elif found.get("event_id"):
            self._pending.complete(self._session, found["event_id"])


def call_cut() -> bytes:
    """The end of a program's stream (GET call/NAME/EVENT) that was cut."""
    return f"event: error\ndata: {json.dumps({'error': CUT})}\n\n".encode()


def session_of(body: bytes) -> str | None:
    """The session hash of a request's JSON body, if it has one."""
    return _text_of(body, "session_hash")


def event_of(answer: bytes) -> str | None:
    """The event id that joining answered."""
    return _text_of(answer, "event_id")


def _text_of(body: bytes, key: str) -> str | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    text = found.get(key) if isinstance(found, dict) else None
    return text if isinstance(text, str) else None


def _failed(event: str) -> dict[str, object]:
    # As Gradio sends a gr.Error.
    return {
        "msg": "process_completed",
        "event_id": event,
        "output": {"error": CUT, "visible": True, "duration": 10, "title": "Error"},
        "success": False,
        "title": "Error",
    }


def _message(content: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"

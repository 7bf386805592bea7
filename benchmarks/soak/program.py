"""A visitor that is a program: gradio_client, one call at a time, with the moments at which words came."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Event
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from gradio_client import Client
from gradio_client.exceptions import AppError

# Seconds between two looks at what has come; gradio_client's own loop looks a thousand times a second.
LOOK = 0.04
# Seconds without an end after which a call has hung.
HUNG = 240.0


class Hung(Exception):
    """A call that never ended."""


@dataclass
class Reply:
    """What came of a call."""

    at: float
    outputs: list[Any] = field(default_factory=list)
    # When the first words were there.
    first: float | None = None
    done: float = 0.0
    # The sentence that ended it.
    sentence: str = ""
    # By the caller.
    stopped: bool = False

    @property
    def last(self) -> Mapping[str, Any]:
        return self.outputs[-1] if self.outputs else {}


class Program:
    """One program and its session with one base's page."""

    def __init__(self, address: str, path: str = ""):
        self.address = f"{address}{path}"
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(f"{self.address}/", verbose=False, httpx_kwargs={"timeout": HUNG})
        return self._client

    def call(
        self, name: str, given: Mapping[str, Any], until: Callable[[Mapping[str, Any]], bool] | None = None
    ) -> Reply:
        """Call an endpoint to its end, or until `until` says of what has come that it is enough.

        Raises Hung where it never ends. An error that is no sentence of the page's is raised as it is.
        """
        reply, pause = Reply(monotonic()), Event()
        job = self.client.submit(**given, api_name=f"/{name}")
        while not job.done():
            self._look(job, reply)
            if until is not None and reply.outputs and until(reply.last):
                job.cancel()
                reply.stopped, reply.done = True, monotonic()
                return reply
            if monotonic() - reply.at > HUNG:
                job.cancel()
                words = "no words" if reply.first is None else f"words after {reply.first - reply.at:.0f} s"
                method = given.get("method", "sum")
                raise Hung(f"{name} by {method} had not ended after {HUNG:.0f} seconds: {words}")
            pause.wait(LOOK)
        reply.done = monotonic()
        fault = job.exception()
        self._look(job, reply)
        if isinstance(fault, AppError):
            reply.sentence = str(fault)
        elif fault is not None:
            raise fault
        elif not reply.outputs:
            reply.outputs = [job.result()]
        return reply

    def leave_amid(self, name: str, given: Mapping[str, Any], words: int) -> Reply:
        """Call an endpoint over a connection of its own, and cut that once so many updates have come."""
        reply, parts, whole = Reply(monotonic()), urlsplit(self.address), False
        described = self.client.view_api(return_format="dict", print_info=False)["named_endpoints"]
        data = [
            given.get(each["parameter_name"], each["parameter_default"])
            for each in described[f"/{name}"]["parameters"]
        ]
        # Of the client's session, which ends with it.
        asked = {"data": data, "session_hash": self.client.session_hash}
        line = http.client.HTTPConnection(parts.netloc, timeout=HUNG)
        try:
            path = f"{parts.path}/gradio_api/call/{name}"
            line.request("POST", path, json.dumps(asked), {"Content-Type": "application/json"})
            event = json.loads(line.getresponse().read())["event_id"]
            line.request("GET", f"{path}/{event}")
            for kind, told in _events(line.getresponse()):
                if kind == "error":
                    reply.sentence = str(told.get("error", "") if isinstance(told, dict) else told)
                    break
                if kind in ("generating", "complete") and told:
                    reply.outputs.append(told[0])
                    if reply.first is None and told[0].get("text"):
                        reply.first = monotonic()
                whole = kind == "complete" and bool(told)
                if len(reply.outputs) >= words or kind == "complete":
                    break
        finally:
            line.close()
        # Without its last event the stream was cut, by whichever side.
        reply.stopped = not whole and not reply.sentence
        reply.done = monotonic()
        return reply

    def leave(self) -> None:
        """Close the session, as a program that ends does."""
        if self._client is not None:
            self._client.close()
            for pool in (self._client.executor, self._client.stream_executor):
                pool.shutdown(wait=False, cancel_futures=True)
            self._client = None

    def _look(self, job: Any, reply: Reply) -> None:
        reply.outputs = [each for each in job.outputs() if isinstance(each, Mapping)]
        if reply.first is None and reply.outputs and reply.last.get("text"):
            reply.first = monotonic()


def _events(stream: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    """(kind, data) of a stream of server-sent events."""
    kind = ""
    for line in stream:
        name, _, value = line.decode("utf-8").rstrip("\r\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def post_json(address: str, path: str, body: object) -> Mapping[str, Any]:
    """What a server answers to a JSON document."""
    line = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        line.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return json.loads(line.getresponse().read())
    finally:
        line.close()


def get_json(address: str, path: str) -> Mapping[str, Any]:
    """What a server answers."""
    line = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        line.request("GET", path)
        return json.loads(line.getresponse().read())
    finally:
        line.close()

"""Ray on this machine with two replicas of a tiny base: one is killed, all are restarted, the server ends."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest
from gradio_client import Client
from gradio_client.client import Job
from gradio_client.exceptions import AppError

import app
from benchmarks.chromium import chromium
from benchmarks.hands import set_slider
from benchmarks.replicas import Replicas, overhead, replicas, wait_for
from composer.ui.replicas.events import CUT
from composer.ui.replicas.front import COOKIE, REPLICA
from tests.browser.hands import WRITING
from tests.tools import tiny

# One server for all tests of the file: it takes longer to start than they take to run.
pytestmark = pytest.mark.timeout(900)
LONG = {"max_new_tokens": 4000, "temperature": 0, "api_name": "/generate"}
SHORT = LONG | {"max_new_tokens": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base that is loaded in no time and writes for as long as it is asked to, and two adapters."""
    folder = tmp_path_factory.mktemp("replicas")
    tiny.adapter(folder / "mine", "llama", 2, r=4)
    tiny.write_endless(folder, {"plain": {"source": str(tiny.adapter(folder / "plain", "llama", 1, r=4))}})
    return folder


@pytest.fixture(scope="module")
def server(folder) -> Iterator[Replicas]:
    options = ("--catalog", str(folder / "catalog.yaml"), "--max-new-tokens", "4000", "--compile", "0")
    with replicas(2, *options, "--local-folders", "1") as server:
        yield server


@pytest.fixture
def visitor(server) -> Client:
    return Client(server.address, verbose=False)


def ask(server: Replicas, cookie: str, path: str, body: object = None) -> tuple[object, str]:
    """A request of the visitor with this cookie: the answer, and the key of the replica that gave it."""
    request = urllib.request.Request(f"{server.address}/{path}", headers={"Cookie": f"{COOKIE}={cookie}"})
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read(), answer.headers[REPLICA]


def replica_of(server: Replicas, client: Client) -> str:
    return ask(server, client.cookies[COOKIE], "gradio_api/app_id")[1]


def begin(server: Replicas, client: Client, prompt: str, **options: object) -> Job:
    """A text that is being written, a word of it is there."""
    job = client.submit(prompt, {}, **LONG | options)
    # Asking the job for its first output would wait for ever where there is none.
    assert wait_for(server, lambda: job.outputs() or job.done())
    assert not job.done(), job.result()
    return job


def kill(server: Replicas, key: str) -> None:
    """End the replica's process as the system does that is out of memory."""
    os.kill(server.members[key][0], signal.SIGKILL)


def all_there(server: Replicas, known: set[str]) -> bool:
    """Whether a replica has come that was not known."""
    return wait_for(server, lambda: set(server.members) - known)


class PageVisitor:
    """Somebody with the page open: the events of its tab of adapters, as a browser sends them."""

    def __init__(self, server: Replicas):
        self.server, self.cookie, self.session = server, uuid4().hex, uuid4().hex
        config, _ = ask(server, self.cookie, "config")
        self.config = json.loads(config)

    def send(self, target: str, event: str, *data: object, about: object = None) -> dict:
        """The last message of the event of the component with this elem_id."""
        [component] = [
            each["id"] for each in self.config["components"] if each["props"].get("elem_id") == target
        ]
        number = next(
            each["id"] for each in self.config["dependencies"] if [component, event] in each["targets"]
        )
        asked = {"fn_index": number, "session_hash": self.session, "data": list(data), "event_data": about}
        ask(self.server, self.cookie, "gradio_api/queue/join", asked)
        path = f"gradio_api/queue/data?session_hash={self.session}"
        stream, self.replica = ask(self.server, self.cookie, path)
        messages = [json.loads(each.removeprefix(b"data: ")) for each in stream.split(b"\n\n") if each]
        return next(each for each in reversed(messages) if each["msg"] == "process_completed")


def test_visitors_are_spread_over_both_and_each_stays(server):
    one, other = Client(server.address, verbose=False), Client(server.address, verbose=False)
    first = replica_of(server, one), replica_of(server, other)
    assert set(first) == set(server.members)
    texts = [each.predict("Once", {}, **SHORT) for each in (one, other)]
    assert texts[0] == texts[1], "the same base, the same text"
    assert (replica_of(server, one), replica_of(server, other)) == first
    # A page goes on with either: it would load itself anew where this number differs.
    assert len({ask(server, each.cookies[COOKIE], "gradio_api/app_id")[0] for each in (one, other)}) == 1


def test_the_front_costs_less_than_a_tenth(server, visitor):
    key = replica_of(server, visitor)
    # Texts of one moment wait for whoever else uses the machine: one of three tries is quiet enough.
    tries = []
    for _ in range(3):
        tries.append(overhead(server, key, visitor, tokens=200, rounds=6))
        if tries[-1]["overhead"] < 0.1:
            break
    assert min(each["CPU overhead"] for each in tries) < 0.1, tries
    # Where both cores are taken by others, each wait for one more process is longer than its work.
    assert min(each["overhead"] for each in tries) < 0.25, tries


def test_a_killed_replica_costs_one_sentence_and_the_next_try_works(server, visitor):
    key, known = replica_of(server, visitor), set(server.members)
    job = begin(server, visitor, "On and on")
    kill(server, key)
    with pytest.raises(AppError) as told:
        job.result(timeout=60)
    assert str(told.value) == CUT
    assert visitor.predict("Once", {}, **SHORT)
    assert replica_of(server, visitor) != key
    assert all_there(server, known), "another one takes its place"


def test_a_page_shows_the_sentence_and_goes_on_at_another_replica(server):
    """In a browser: the page is not loaded anew, and what was typed stays."""
    known = set(server.members)
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(240_000)
        page.goto(server.address)
        page.wait_for_selector(".live-status[data-phase]")
        loads = []
        page.on("load", lambda _: loads.append(1))
        page.fill("#prompt textarea", "On and on")
        page.locator("#sampling button").first.click()
        set_slider(page, "max-new-tokens", 4000)
        page.click("#generate")
        page.wait_for_function(WRITING)
        cookie = next(each["value"] for each in page.context.cookies() if each["name"] == COOKIE)
        kill(server, ask(server, cookie, "gradio_api/app_id")[1])
        page.get_by_text(CUT).wait_for()
        set_slider(page, "max-new-tokens", 5)
        page.click("#generate")
        page.wait_for_selector(".live-status[data-phase=done]")
        assert page.input_value("#prompt textarea") == "On and on"
        assert loads == []
    assert all_there(server, known)


def test_adapters_that_a_visitor_added_are_there_after_their_replica_died(server, folder):
    visitor, known = PageVisitor(server), set(server.members)
    found = visitor.send("add-source", "submit", str(folder / "mine"))
    assert found["success"], found
    added = visitor.send("finder", "apply", None, None)
    assert added["success"], added
    mine = {"name": str(folder / "mine").rpartition("/")[2]}
    heard = visitor.send("cards", "select", None, "", 0, about=mine)
    assert heard["success"], heard
    before = visitor.replica
    kill(server, before)
    heard = visitor.send("cards", "select", None, "", 0, about=mine)
    assert heard["success"], heard
    assert visitor.replica != before
    assert all_there(server, known)


def test_a_rolling_restart_ends_no_text_and_replaces_all(server):
    known = set(server.members)
    visitors = {
        replica_of(server, each): each for each in (Client(server.address, verbose=False) for _ in range(8))
    }
    assert len(visitors) == 2, "one at each"
    jobs = [begin(server, each, "Round and round", max_new_tokens=2500) for each in visitors.values()]
    server.process.send_signal(signal.SIGHUP)
    assert wait_for(server, lambda: "is draining" in server.log.read_text("utf-8"))
    assert not any(each.done() for each in jobs), "there was nothing to wait for"
    first, second = (each.result(timeout=300) for each in jobs)
    assert first == second
    assert wait_for(server, lambda: "all replicas are new" in server.log.read_text("utf-8"))
    assert len(set(server.members) - known) == 2
    for each in visitors.values():
        assert each.predict("Once", {}, **SHORT)
        assert replica_of(server, each) not in known


def test_a_server_that_is_ended_ends_its_texts_with_a_sentence_first(server, visitor):
    job = begin(server, visitor, "On and on")
    begun = monotonic()
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(AppError, match="The server is shutting down"):
        job.result(timeout=30)
    assert server.process.wait(timeout=60) == app.TERMINATED
    assert monotonic() - begun < 30
    log = server.log.read_text("utf-8")
    assert "Traceback" not in log, log[log.index("Traceback") :][:4000]

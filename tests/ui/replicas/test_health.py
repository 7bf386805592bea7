"""A replica is well where its decoding thread does what it is given and its page answers."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Event, Thread

import pytest

from composer.core.errors import ComposerError
from composer.engine.scheduler import Scheduler
from composer.ui.replicas.health import check_decoding, check_page
from tests.tools import tiny


@pytest.fixture
def scheduler():
    scheduler = Scheduler(tiny.engine("llama", {}), max_seq_len=64)
    yield scheduler
    scheduler.close()


def test_a_thread_that_decodes_is_well(scheduler):
    check_decoding(scheduler)


def test_a_thread_that_hangs_is_not(scheduler):
    going_on = Event()
    scheduler.submit_task(going_on.wait)
    with pytest.raises(ComposerError, match=r"done nothing for 0\.2 seconds"):
        check_decoding(scheduler, 0.2)
    going_on.set()
    check_decoding(scheduler)


def test_a_thread_that_died_is_not(scheduler, monkeypatch):
    monkeypatch.setattr(scheduler, "_run", lambda: None)
    scheduler.submit_task(lambda: None)
    scheduler._thread.join()
    with pytest.raises(ComposerError, match="done nothing"):
        check_decoding(scheduler, 0.2)


@pytest.mark.parametrize("status", [200, 500])
def test_a_page_answers_or_does_not(status):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        if status == 200:
            check_page("127.0.0.1", server.server_port)
        else:
            with pytest.raises(ComposerError, match="status 500"):
                check_page("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def test_a_page_that_is_gone_or_silent_does_not_answer():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(ComposerError, match="does not answer"):
            check_page("127.0.0.1", silent.getsockname()[1], 0.2)
        silent.listen()
        with pytest.raises(ComposerError, match="does not answer"):
            check_page("127.0.0.1", silent.getsockname()[1], 0.2)

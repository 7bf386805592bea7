"""The door of the page: options, address, faults of the start, signals."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import huggingface_hub.utils
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

import app
from composer.core.errors import ComposerError
from composer.ui import launch as serving
from composer.ui.address import check_address
from composer.ui.settings import VARIABLES, Settings
from tests.tools import tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture
def alone(monkeypatch):
    """No variable of this machine's user leads the page anywhere."""
    for name in (*VARIABLES, "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
def launched(monkeypatch, alone):
    """Everything up to the page itself; returns what it would have been launched with."""
    seen = []

    class Engine:
        @staticmethod
        def from_catalog(catalog, base, decode_weights, max_adapter_mb, compile_step):
            seen.append((catalog, base, decode_weights, compile_step))
            return Engine()

    monkeypatch.setattr("composer.ui.bases.opening.Engine", Engine)
    monkeypatch.setattr(serving, "launch", lambda engine, settings, on_gpu: seen.append(settings))
    # The test runner's own handler and log stay as they are.
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    return seen


def one_line(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return err


# --- options -------------------------------------------------------------------------------------


def test_options_are_read(launched, port):
    argv = ["--port", str(port), "--host", "127.0.0.1", "--base=big", "--catalog", "mine.yaml", "--int8", "1"]
    assert app.main([*argv, "--compile", "0", "--max-new-tokens", "9"]) == 0
    load, settings = launched
    assert load == ("mine.yaml", "big", "int8", False)
    assert (settings.host, settings.port, settings.base) == ("127.0.0.1", port, "big")
    assert (settings.max_new_tokens, settings.compiled, settings.int8) == (9, False, True)


def test_the_log_has_no_line_for_each_request_to_the_hub(launched, port):
    assert app.main(["--port", str(port)]) == 0
    # By whichever client: its lines have the names of what visitors look at.
    assert logging.getLogger(huggingface_hub.utils.httpx.__name__).level >= logging.WARNING


def test_an_option_counts_more_than_its_variable(launched, port, monkeypatch):
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("COMPOSER_SLOTS", "3")
    assert app.main(["--port", str(port)]) == 0
    assert (launched[-1].port, launched[-1].slots) == (port, 3)


def test_help_lists_every_option_with_its_variable(capsys):
    assert app.main(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for option in ("--host", "--port", "--base", "--catalog", "--max-added", "--compile"):
        assert option in told
    assert all(f"[{name}]" in told for name in VARIABLES)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--hlep"], "--hlep"),
        (["serve"], "serve"),
        (["-x"], "-x"),
        (["--port"], "--port"),
        (["--port", "x"], "--port must be a number between 1 and 65535"),
        (["--port", "0"], "--port"),
        (["--port", "65536"], "--port"),
        (["--port", "80.5"], "--port"),
        (["--port="], "--port"),
        (["--host", ""], "--host"),
        (["--time-limit", "nan"], "--time-limit"),
        (["--int8", "maybe"], "--int8 must be 0 or 1"),
        (["--slots", "1e9"], "--slots"),
        (["--port", "\n\n"], "--port"),
    ],
)
def test_a_wrong_option_ends_with_2_and_one_line(argv, words, launched, capsys):
    assert app.main(argv) == 2
    assert words in one_line(capsys)
    assert launched == []


@pytest.mark.parametrize("name", ["PORT", "COMPOSER_SLOTS", "COMPOSER_INT8"])
def test_a_wrong_variable_ends_with_2_and_its_name(name, launched, capsys, monkeypatch):
    monkeypatch.setenv(name, "seven")
    assert app.main([]) == 2
    assert name in one_line(capsys)


# --- the address ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_in_use_is_reported_before_anything_is_loaded(host, launched, taken, capsys):
    assert app.main(["--port", str(taken), "--host", host]) == 2
    told = one_line(capsys)
    assert str(taken) in told and "--port" in told and "PORT" in told and "GRADIO" not in told
    assert launched == []


@pytest.mark.parametrize(
    "host", ["999.1.1.1", "203.0.113.1", "a..b", "no such host", "x" * 300, "[::1", "2001:db8::1", "\udcff"]
)
def test_a_foreign_host_is_reported_with_its_option(host, launched, port, capsys):
    assert app.main(["--port", str(port), "--host", host]) == 2
    told = one_line(capsys)
    assert "--host" in told and "HOST" in told
    assert launched == []


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EACCES, "above 1023"), (errno.EADDRINUSE, "in use"), (errno.ENODEV, "--host")],
)
def test_what_the_system_refuses_names_the_option(number, words, monkeypatch):
    def refuse(*args):
        raise OSError(number, "refused")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ComposerError, match=words):
        check_address("127.0.0.1", 80)


def test_a_free_address_is_left_free(port):
    check_address("127.0.0.1", port)
    check_address("127.0.0.1", port)
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", port))


# --- faults --------------------------------------------------------------------------------------

FAULTS = [
    (ComposerError("The base is gone: choose another."), "choose another"),
    (OSError(errno.ENOSPC, "No space left on device", "x.safetensors"), "The disk is full (x.safetensors)"),
    (PermissionError(errno.EACCES, "Permission denied"), "ermission"),
    (RuntimeError("shapes [2]\nand [3] differ"), "RuntimeError"),
    (MemoryError(), "memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
    (ImportError("cannot import name 'x'"), "ImportError"),
    (KeyError("model"), "KeyError"),
]


START = {"load": "composer.ui.bases.opening.Engine.from_catalog", "launch": "composer.ui.launch.launch"}


@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("place", START)
def test_any_fault_of_the_start_is_one_line(place, fault, words, launched, port, capsys, monkeypatch):
    def fail(*args, **options):
        raise fault

    target = (
        "composer.ui.bases.opening.Engine.from_catalog" if place == "load" else "composer.ui.launch.launch"
    )
    monkeypatch.setattr(target, fail)
    assert app.main(["--port", str(port)]) == 2
    assert words in one_line(capsys)


@pytest.mark.parametrize("place", START)
def test_ctrl_c_while_it_starts_ends_with_130(place, launched, port, capsys, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    target = (
        "composer.ui.bases.opening.Engine.from_catalog" if place == "load" else "composer.ui.launch.launch"
    )
    monkeypatch.setattr(target, stop)
    assert app.main(["--port", str(port)]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_port_taken_during_loading_is_reported(taken, monkeypatch):
    """Gradio's own sentence names a variable that is not read here."""

    class Page:
        max_threads = state_session_capacity = 1
        context, settings = SimpleNamespace(slots=(), examples=()), Settings()
        blocks = staticmethod(lambda: Page)

        def launch(**options):
            raise OSError("Cannot find empty port: set the GRADIO_SERVER_PORT environment variable")

    idle = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(serving, "make_runner", lambda *args: idle)
    monkeypatch.setattr(serving, "Page", lambda *args: Page)
    with pytest.raises(ComposerError, match=f"Port {taken} is in use.*--port"):
        serving.launch(None, Settings(port=taken, max_bases=1))


# --- as a process --------------------------------------------------------------------------------


def start(*argv: str, **options) -> subprocess.Popen:
    # A shell that runs the tests in the background ignores SIGINT, and a child would inherit that.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *argv], cwd=ROOT, preexec_fn=listen, **{**pipe, **options})


def test_help_needs_no_torch():
    check = "import sys, app; print(app.main(['--help']), 'torch' in sys.modules, 'gradio' in sys.modules)"
    out, err = start("-c", check).communicate()
    assert out.splitlines()[-1] == "0 False False" and err == ""


def test_help_that_cannot_be_written_is_no_success():
    with open("/dev/full", "w") as full:
        process = start("app.py", "--help", stdout=full)
        _, err = process.communicate()
    assert process.returncode == 2 and err.count("\n") == 1 and "disk is full" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_it_loads_ends_it_at_once_and_without_a_traceback(number, code, port, tmp_path):
    # A catalog that is a pipe: the start waits in the middle of loading for as long as this test likes.
    os.mkfifo(tmp_path / "catalog.yaml")
    process = start("app.py", "--port", str(port), "--catalog", str(tmp_path / "catalog.yaml"))
    with (tmp_path / "catalog.yaml").open("w"):  # returns once the other side reads
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err and "Interrupt" not in err


@pytest.fixture
def tiny_catalog(tmp_path) -> Path:
    return tiny.write_endless(tmp_path)


def test_a_server_of_which_a_part_hangs_ends_all_the_same():
    hanging = """
import logging, signal, threading
import app
logging.basicConfig()
app.LAST_MOMENT = 0.1
signal.signal(signal.SIGTERM, app._terminate)
try:
    print("ready", flush=True)
    threading.Event().wait()
finally:
    threading.Event().wait()
"""
    process = start("-c", hanging)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == app.TERMINATED and "a part of it still works" in err


def test_a_server_that_is_ended_ends_its_texts_with_a_sentence_first(alone, port, tiny_catalog):
    options = ("--port", str(port), "--catalog", str(tiny_catalog), "--max-new-tokens", "4000")
    process = start("app.py", *options, "--compile", "0")
    try:
        assert any("The page is at" in line for line in process.stdout)
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        job = client.submit("On and on", {}, max_new_tokens=4000, temperature=0, api_name="/generate")
        next(iter(job))
        assert not job.done(), "the text was written to its end before the server was"
        began = monotonic()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(AppError, match="The server is shutting down"):
            job.result(timeout=10)
        _, err = process.communicate(timeout=30)
        assert monotonic() - began < 10 and process.returncode == app.TERMINATED
        assert "Traceback" not in err
    finally:
        process.kill()

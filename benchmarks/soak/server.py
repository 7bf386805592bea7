"""The served process from outside: started, asked, watched, ended."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

import psutil

from benchmarks.chromium import answers
from composer.core.errors import ComposerError

ROOT = Path(__file__).parents[2]
# Seconds after which a server that was told to end hangs; how many it took is reported.
GRACE = 60.0
INJECTED = ("InjectedFault", "InjectedEnd")


class Server:
    """A running server of the soak."""

    def __init__(self, process: subprocess.Popen, address: str, door: socket.socket, log: Path):
        self.address, self.log = address, log
        self._process, self._lock = process, Lock()
        self._stream = door.makefile("rw")
        self._seen = psutil.Process(process.pid)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def memory(self) -> int:
        """Bytes that it has in memory."""
        return self._seen.memory_info().rss

    def ask(self, **asked: object) -> Mapping[str, Any]:
        """What its door answers. Raises ComposerError where it is gone."""
        try:
            with self._lock:
                self._stream.write(f"{json.dumps(asked)}\n")
                self._stream.flush()
                return json.loads(self._stream.readline())
        except (OSError, ValueError) as fault:
            raise ComposerError(f"The server of the soak is gone:\n{self.log.read_text()[-3000:]}") from fault

    def end(self) -> float:
        """Tell it to end; returns the seconds that it took. Raises ComposerError after GRACE."""
        began = monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise ComposerError(f"The server had not ended {GRACE:.0f} s after SIGTERM.") from None
        return monotonic() - began

    def crashes(self) -> list[str]:
        """Tracebacks of the log that no injected fault explains, each by its last line."""
        return unexplained(self.log.read_text("utf-8", errors="replace"))


@contextmanager
def served(settings: Mapping[str, str], folder: Path) -> Iterator[Server]:
    """A server with these environment variables; its log and its temporary files are in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours, theirs = socket.socketpair()
    log, temporary = folder / "server.log", folder / "tmp"
    temporary.mkdir()
    own = {"HOST": "127.0.0.1", "PORT": str(port), "TMPDIR": str(temporary), "MALLOC_ARENA_MAX": "2"}
    own["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    with log.open("w") as out, ours:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak.launcher", str(theirs.fileno())],
            cwd=ROOT,
            env={**os.environ, **own, **settings},
            stdout=out,
            stderr=out,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        try:
            if not answers(process, port):
                raise ComposerError(f"The server of the soak did not start:\n{log.read_text()[-3000:]}")
            yield Server(process, f"http://127.0.0.1:{port}", ours, log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


class Watch:
    """Reads the server's memory once a second, until it is closed."""

    def __init__(self, server: Server):
        self._server, self._over = server, Event()
        # (seconds of the monotonic clock, bytes).
        self.memory: list[tuple[float, int]] = []
        self._thread = Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while self._server.running and not self._over.wait(1.0):
            self.memory.append((monotonic(), self._server.memory))


def unexplained(log: str) -> list[str]:
    """The last lines of a log's tracebacks, without those of injected faults."""
    found = []
    for part in log.split("Traceback (most recent call last):\n")[1:]:
        last = re.search(r"^(?=\S)(?!\+)(.+)$", part, re.MULTILINE)
        line = last.group(1) if last else "a traceback without an end"
        if not any(name in line for name in INJECTED):
            found.append(line[:300])
    return found

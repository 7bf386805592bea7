"""app.py with a door for the soak: python -m benchmarks.soak.launcher FD.

The server is what a visitor starts. Beside it a thread answers lines of JSON on the socket FD: it arms
faults, and tells what the server holds.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from benchmarks.soak.server_faults import ServerFaults
from composer.engine.added_adapters import AddedAdapters
from composer.engine.scheduler import Scheduler

log = logging.getLogger("soak")


class Door:
    """What the soak may ask of the server's process."""

    def __init__(self, faults: ServerFaults):
        self._faults = faults
        self._schedulers, self._added = WeakSet[Scheduler](), WeakSet[AddedAdapters]()
        _register(Scheduler, self._schedulers)
        _register(AddedAdapters, self._added)

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What is asked: {"inject": NAME}, {"forget": true} or {"state": true}."""
        if "inject" in asked:
            name = str(asked["inject"])
            if name == "adapter makes room":
                return {"done": self._make_room()}
            self._faults.arm(name)
            return {"done": True}
        if "forget" in asked:
            for each in _living("SessionState"):
                each.STATE_TTL_WHEN_CLOSED = 0
        return self.state()

    def state(self) -> dict[str, Any]:
        """What is held for visitors now, by kind."""
        sessions = list(_living("SessionState"))
        return {
            "rows": sum(each.busy for each in self._schedulers),
            "working": sum(not each.idle for each in self._schedulers),
            "calls": sum(not each.idle for each in _living("UseCount")),
            # Kept by Gradio for the page's visitors: those that may come back, by its own rule for an hour.
            "sessions": len(sessions),
            "open sessions": sum(not each.is_closed for each in sessions),
            "threads": Counter(re.sub(r"[\d_-]+$", "", each.name) for each in threading.enumerate()),
            "owners": sorted(name for each in self._added for name in each._owners.elements()),
            # Those that programs named last, which the page keeps for them.
            "kept": sorted(own.name for each in _living("Programs") for own in each._kept.values()),
            "loaded": sorted(name for each in self._added for name in each._loaded),
            "fired": dict(self._faults.fired),
        }

    def _make_room(self) -> bool:
        """Have an added adapter leave the memory, as it does when another one needs its room."""
        for each in self._added:
            with each._changing:
                if each._loaded:
                    each._unload(next(iter(each._loaded)))
                    return True
        return False


def _living(name: str) -> Iterator[Any]:
    """Objects of a class by its name: the bench imports neither Gradio nor the page."""
    return (each for each in gc.get_objects() if type(each).__name__ == name)


def _register(kind: type, known: WeakSet) -> None:
    made = kind.__init__

    def init(self: Any, *given: Any, **named: Any) -> None:
        made(self, *given, **named)
        known.add(self)

    kind.__init__ = init


def serve(door: Door, line: socket.socket) -> None:
    """Answer until the soak hangs up."""
    with suppress(OSError), line, line.makefile("rw") as stream:
        for asked in stream:
            try:
                answer = door.answer(json.loads(asked))
            except Exception as fault:
                log.exception("the soak's question could not be answered")
                answer = {"fault": str(fault)}
            stream.write(f"{json.dumps(answer)}\n")
            stream.flush()


def main(descriptor: int) -> int:
    """Serve as app.py does, with the door open."""
    import app

    faults = ServerFaults()
    faults.install()
    door = Door(faults)
    line = socket.socket(fileno=descriptor)
    threading.Thread(target=serve, args=(door, line), name="soak", daemon=True).start()
    return app.main([])


if __name__ == "__main__":
    code = main(int(sys.argv[1]))
    for each in (sys.stdout, sys.stderr):
        each.flush()
    os._exit(code)

"""Faults at random moments: each kind in turn, shuffled by the seed, inside the server and around it."""

from __future__ import annotations

import random
from collections.abc import Callable
from threading import Event, Thread
from time import monotonic

from benchmarks.soak import server_faults
from benchmarks.soak.server import Server
from composer.core.errors import ComposerError
from tests.tools.fake_hub import FakeHub, Fault

SLOW, LIMITED, DOWN = "the Hub is slow", "the Hub says 429", "the Hub is down"
MAKES_ROOM = "adapter makes room"
HUB = {
    SLOW: Fault("", None, delay=1.0),
    LIMITED: Fault("", 429, {"Retry-After": "1"}),
    DOWN: Fault("", 0),
}
# Seconds that a fault of the Hub lasts.
LASTS = 3.0
NAMES = (*server_faults.NAMES, MAKES_ROOM, *HUB)
# What visitors may read, by what explains it. Those without a fault are the page's own limits.
SENTENCES: dict[str, tuple[str, ...]] = {
    "This text could not be continued": (
        server_faults.ROW,
        server_faults.MODEL,
        server_faults.THREAD,
    ),
    "overflowed": (server_faults.NOT_FINITE,),
    "memory is not enough": (server_faults.MEMORY,),
    "Hub": tuple(HUB),
    "took too long": tuple(HUB),
    "had to make room": (MAKES_ROOM, *HUB),
    "Server busy": (),
}


class Injector:
    """Has the faults strike until it is closed."""

    def __init__(self, server: Server, hub: FakeHub, seed: int, every: float):
        """every: seconds between two faults, on average."""
        self._server, self._hub, self._every = server, hub, every
        self._dice, self._over = random.Random(f"{seed} faults"), Event()
        # (seconds of the monotonic clock, name).
        self.injected: list[tuple[float, str]] = []
        self._thread = Thread(target=self._run, name="faults", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._hub.faults.clear()

    def _run(self) -> None:
        waiting: list[str] = []
        while not self._over.wait(self._dice.uniform(0.5, 1.5) * self._every):
            if not waiting:
                waiting = list(NAMES)
                self._dice.shuffle(waiting)
            name = waiting.pop()
            try:
                if name not in HUB:
                    self._server.ask(inject=name)
            except ComposerError:
                return  # the server is gone, which the soak sees for itself
            self.injected.append((monotonic(), name))
            if name in HUB:
                self._hub.faults.append(HUB[name])
                self._over.wait(LASTS)
                self._hub.faults.clear()


def explained(sentence: str, happened: Callable[[str], bool]) -> bool:
    """Whether a visitor may have read this: a limit of the page, or the words for a fault that happened."""
    for words, faults in SENTENCES.items():
        if words in sentence and (not faults or any(happened(each) for each in faults)):
            return True
    return False

"""Loading bases beside the one that the server started with, each once, whoever asks for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Generic, Protocol, TypeVar

from composer.core.errors import ComposerError
from composer.ui.error_messages import error_message


class Unloadable(Protocol):
    """What serves a base."""

    def close_if_idle(self) -> bool:
        """Let nobody in from now on, unless a text is in progress. Returns whether it is closed."""

    def close(self) -> None:
        """Give up the memory, after close_if_idle."""


Loaded = TypeVar("Loaded", bound=Unloadable)


@dataclass(frozen=True)
class Stage:
    """What is being done for a base."""

    words: str
    # How much of it is done, from 0 to 1; None: unknown.
    share: float | None = None


# Is told what is being done, and how much of it is done.
Tell = Callable[[str, float | None], None]


class BaseLoad:
    """A base on its way. Any number of visitors may look at it."""

    def __init__(self, name: str):
        self.name, self.stage = name, Stage("Waiting for another base that is being loaded")
        # The sentence of what went wrong.
        self.fault = ""
        self._done = Event()

    @property
    def ended(self) -> bool:
        return self._done.is_set()

    def end(self, fault: str = "") -> None:
        self.fault = fault
        self._done.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it has ended, after waiting for at most `timeout` seconds."""
        return self._done.wait(timeout)

    def tell(self, words: str, share: float | None = None) -> None:
        self.stage = Stage(words, share)


class LoadedBases(Generic[Loaded]):
    """The bases that were loaded beside the first, at most `most` at a time. Thread-safe.

    prepare: what can go wrong before memory is needed, such as a download; it is also given what serves the
    base that will make room, or None. load: the rest. Both are given the base's name and a Tell, and raise.
    The least recently used base leaves when another needs its place, and none in which a text is in progress.
    """

    def __init__(
        self,
        most: int,
        prepare: Callable[[str, Tell, Loaded | None], None],
        load: Callable[[str, Tell], Loaded],
    ):
        self._most, self._prepare, self._load = most, prepare, load
        # The least recently used one first.
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._loads: dict[str, BaseLoad] = {}
        self._changing, self._one_at_a_time = Lock(), Lock()

    def get(self, name: str) -> Loaded | None:
        """What serves the base, and is used now; None for one that is not loaded."""
        with self._changing:
            if name in self._loaded:
                self._loaded.move_to_end(name)
            return self._loaded.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are loaded."""
        with self._changing:
            return tuple(self._loaded)

    @property
    def served(self) -> tuple[Loaded, ...]:
        """What serves them."""
        with self._changing:
            return tuple(self._loaded.values())

    def latest(self, name: str) -> BaseLoad | None:
        """The base's last load, whether it is under way, done or failed."""
        with self._changing:
            return self._loads.get(name)

    def start(self, name: str) -> None:
        """Load the base in the background, unless it is loaded or being loaded."""
        with self._changing:
            before = self._loads.get(name)
            if name in self._loaded or (before and not before.ended):
                return
            load = self._loads[name] = BaseLoad(name)
        # It ends with its work: a thread that stays keeps a team of OpenMP workers.
        Thread(target=self._run, args=(load,), name=f"loading {name}", daemon=True).start()

    def close(self) -> None:
        """End what serves the bases."""
        with self._changing:
            loaded = list(self._loaded.values())
            self._loaded.clear()
        for each in loaded:
            each.close()

    def _run(self, load: BaseLoad) -> None:
        try:
            with self._one_at_a_time:
                self._prepare(load.name, load.tell, self._leaving())
                self._make_room()
                loaded = self._load(load.name, load.tell)
                with self._changing:
                    self._loaded[load.name] = loaded
        except Exception as fault:  # whoever waits for the base is told
            load.end(error_message(fault))
        else:
            load.end()

    def _leaving(self) -> Loaded | None:
        """What is the first to leave where there is no place; None where there is one."""
        with self._changing:
            return next(iter(self._loaded.values())) if len(self._loaded) >= self._most else None

    def _make_room(self) -> None:
        while len(self._loaded) >= self._most:
            with self._changing:
                name = next((name for name, each in self._loaded.items() if each.close_if_idle()), None)
                if name is None:
                    raise ComposerError(
                        "All places for bases are taken, and texts are being written on each: try again when "
                        "one has ended."
                    )
                leaving = self._loaded.pop(name)
            leaving.close()

"""One soak: a server, its visitors and its faults, to the last visitor's leaving."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

from benchmarks.chromium import chromium
from benchmarks.soak.actions import BY_HAND, BY_PROGRAM
from benchmarks.soak.actions.registry import choose, order
from benchmarks.soak.browser import Hands, guarded
from benchmarks.soak.faults import Injector
from benchmarks.soak.figures import not_freed
from benchmarks.soak.plan import Dice, SoakPlan, World
from benchmarks.soak.program import Program
from benchmarks.soak.records import Recorder
from benchmarks.soak.server import Server, Watch, served
from benchmarks.soak.visitors import Scripted, think
from composer.core.errors import ComposerError
from tests.tools.fake_hub import FakeHub, fake_hub

# The share of the time over which visitors come in.
ARRIVING = 0.1
# Seconds for visitors to end what they are doing, and for the server to free what they had.
ENDING, FREEING = 400.0, 60.0


@dataclass
class Soaked:
    """All that a soak has to tell, before anything is compared."""

    seconds: float = 0.0
    recorder: Recorder = field(default_factory=Recorder)
    injected: list[tuple[float, str]] = field(default_factory=list)
    # How often those inside the server have struck.
    fired: Mapping[str, int] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    not_freed: list[str] = field(default_factory=list)
    # That the server took to end.
    ending: float = 0.0

    def happened(self, name: str) -> bool:
        """Whether a fault was injected."""
        return any(name == each for _, each in self.injected)


def soak(
    world: World,
    plan: SoakPlan,
    folder: Path,
    settings: Mapping[str, str],
    tell: Callable[[str], None] = lambda words: None,
) -> Soaked:
    """Run it. folder: an empty one, for the log, caches and temporary files. settings: environment variables
    of the server, beside the soak's own. Raises ComposerError where it does not start."""
    with fake_hub() as hub:
        fill(hub, world)
        own = {
            # Room for about six of the Hub's twelve: they make room for each other all the time, and the
            # memory has its full height before the warm-up is over.
            "COMPOSER_ADDED_MB": "60",
            "COMPOSER_CATALOG": str(world.catalog_file),
            "COMPOSER_MAX_NEW_TOKENS": str(4 * plan.tokens),
            "COMPOSER_TIME_LIMIT": "600",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "home"),
            "NO_PROXY": "127.0.0.1,localhost",
        }
        with served({**own, **settings}, folder) as server:
            return _soaked(server, hub, world, plan, folder, tell)


def fill(hub: FakeHub, world: World) -> None:
    """Publish the soak's adapters, and the bases that they name."""
    for base in world.bases:
        hub.add(world.spec(base).id, {"config.json": b"{}"})
    for name, source in world.hub.items():
        hub.add(name, {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()})


def _soaked(
    server: Server, hub: FakeHub, world: World, plan: SoakPlan, folder: Path, tell: Callable[[str], None]
) -> Soaked:
    made, over = Soaked(), Event()
    first = Program(server.address)
    first.call("generate", {"prompt": "The", "weights": {}, "max_new_tokens": 2})
    first.leave()
    watch, began = Watch(server), monotonic()
    threads = [
        Thread(target=work, args=given, name=f"soak {name}", daemon=True)
        for work, name, given in _visitors(server, world, plan, made.recorder, over)
    ]
    injector = Injector(server, hub, plan.seed, plan.fault_every)
    for thread in threads:
        thread.start()
        over.wait(plan.seconds * ARRIVING / len(threads))
    whole = plan.warm_up + plan.seconds
    while monotonic() - began < whole and server.running:
        over.wait(min(10.0, max(whole - (monotonic() - began), 0.1)))
        tell(f"{monotonic() - began:.0f} s: {len(made.recorder.answers)} answers")
    injector.close()
    over.set()
    made.seconds, made.injected = monotonic() - began, injector.injected
    _join(threads, made)
    watch.close()
    made.memory = watch.memory
    if not server.running:
        made.crashes.append("the server ended by itself")
    else:
        made.not_freed = _freed(server, folder)
        made.fired = server.ask(state=True)["fired"]
        try:
            made.ending = server.end()
        except ComposerError as fault:
            made.crashes.append(str(fault))
    made.crashes += server.crashes()
    return made


def _visitors(
    server: Server, world: World, plan: SoakPlan, recorder: Recorder, over: Event
) -> list[tuple[Callable[..., None], str, tuple[Any, ...]]]:
    given = (server.address, world, plan, recorder, over)
    programs = [f"visitor {place + 1:02}" for place in range(plan.visitors)]
    people = [f"browser {place + 1}" for place in range(plan.browsers)]
    found = [(_live_as_program, name, (name, *given)) for name in programs]
    return [*((_live_by_hand, name, (name, *given)) for name in people), *found]


def _live_as_program(
    name: str, address: str, world: World, plan: SoakPlan, recorder: Recorder, over: Event
) -> None:
    visitor = Scripted(name, address, world, plan, recorder, over)
    todo = order(BY_PROGRAM, visitor.dice.random)
    try:
        while not over.is_set():
            action = todo.pop() if todo else choose(BY_PROGRAM, visitor.dice.random)
            try:
                action.work(visitor)
            except Exception as fault:
                logging.getLogger(__name__).exception("%s: %s", name, action.name)
                recorder.report(name, action.name, f"{type(fault).__name__}: {fault}"[:300])
            recorder.count(action.name)
            think(over, visitor.dice)
    finally:
        visitor.reload()


def _live_by_hand(
    name: str, address: str, world: World, plan: SoakPlan, recorder: Recorder, over: Event
) -> None:
    dice = Dice(world, plan, f"{name} order")
    todo = order(BY_HAND, dice.random)
    with chromium() as browser:
        hands = Hands(name, browser, address, world, plan, recorder, over)
        try:
            while not over.is_set():
                action = todo.pop() if todo else choose(BY_HAND, dice.random)
                guarded(hands, action.name, action.work)
                recorder.count(f"{action.name} by hand")
                think(over, dice)
        finally:
            hands.close()


def _join(threads: list[Thread], made: Soaked) -> None:
    end = monotonic() + ENDING
    for thread in threads:
        thread.join(max(end - monotonic(), 0.1))
        if thread.is_alive():
            made.recorder.report(thread.name.removeprefix("soak "), "end", "it never ended")


def _freed(server: Server, folder: Path) -> list[str]:
    """What the server still holds, once it has had the time to free it."""
    pause, end = Event(), monotonic() + FREEING
    while True:
        # Gradio keeps a session for an hour, for somebody who comes back; the soak does not wait so long.
        state = server.ask(forget=True)
        files = [
            path.relative_to(folder / "tmp").as_posix()
            for path in (folder / "tmp").rglob("*")
            if path.is_file()
        ]
        left = not_freed(state, files)
        if not left or monotonic() > end:
            return left
        pause.wait(1.0)

"""What the soak measured, as numbers: waits, fairness, memory, what was not freed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from benchmarks.soak.records import SENTENCE, Answer
from benchmarks.timing import quantile

# Texts that begin with no other work: nothing is read, merged or downloaded for them first.
PLAIN_METHODS = ("sum", "average", "contrast")
PLAIN_ACTIONS = ("generate", "curves", "stop", "stream cut", "share link")
# Waits below so many seconds are nobody's disadvantage: the clock of a visitor is no finer.
UNNOTICED = 0.5
# Readings of the memory whose median is one figure: a minute's.
READINGS = 60


@dataclass(frozen=True)
class Waits:
    """Seconds from asking to the first words."""

    count: int
    p50: float
    p95: float
    longest: float


@dataclass(frozen=True)
class Fairness:
    """Of visitors who came in the same second: groups of two and more, and the longest wait over the mean."""

    groups: int
    # Groups in which somebody waited more than twice the mean, and longer than UNNOTICED.
    unfair: int
    worst: float


@dataclass(frozen=True)
class Memory:
    """Bytes of the server: after the warm-up, at the end, and at most."""

    warm: float
    end: float
    most: float

    @property
    def growth(self) -> float:
        """A share of what it was after the warm-up."""
        return self.end / self.warm - 1


def waits(answers: Sequence[Answer]) -> Waits | None:
    """Of every text whose first words were seen; None without any."""
    found = [each.first - each.at for each in answers if each.first is not None and each.ended != SENTENCE]
    if not found:
        return None
    return Waits(len(found), quantile(found, 0.5), quantile(found, 0.95), max(found))


def fairness(answers: Sequence[Answer]) -> Fairness:
    """Of texts that need the same work before their first word."""
    groups: dict[int, list[float]] = defaultdict(list)
    for each in answers:
        plain = each.action in PLAIN_ACTIONS and each.asked.composition.get("method") in PLAIN_METHODS
        if plain and each.first is not None and each.ended != SENTENCE:
            groups[int(each.at)].append(each.first - each.at)
    several = [own for own in groups.values() if len(own) >= 2]
    ratios = [max(own) / mean(own) for own in several]
    unfair = sum(max(own) > max(2 * mean(own), UNNOTICED) for own in several)
    return Fairness(len(several), unfair, max(ratios, default=1.0))


def memory(readings: Sequence[tuple[float, int]], warm_up: float) -> Memory | None:
    """warm_up: seconds in which growth is no fault. None where too few readings are later."""
    later = [size for moment, size in readings if moment - readings[0][0] >= warm_up]
    if len(later) < 4:
        return None
    count = min(READINGS, len(later) // 2)
    return Memory(median(later[:count]), median(later[-count:]), max(size for _, size in readings))


def by_minute(readings: Sequence[tuple[float, int]]) -> list[int]:
    """The median of the bytes in each minute from the first reading on."""
    minutes: dict[int, list[int]] = defaultdict(list)
    for moment, size in readings:
        minutes[int((moment - readings[0][0]) // 60)].append(size)
    return [int(median(sizes)) for sizes in minutes.values()]


# Threads that work for one call, and must be gone after it.
OF_A_CALL = ("visitor", "comparing", "merging", "reading", "explaining")


def not_freed(state: Mapping[str, Any], files: Sequence[str]) -> list[str]:
    """What is still held after the last visitor has left, in words. files: temporary ones that are there."""
    found = [f"{state[kind]} {kind}" for kind in ("rows", "working", "calls", "open sessions") if state[kind]]
    threads = {
        name: count for name, count in state["threads"].items() if name.startswith(OF_A_CALL) and count
    }
    if threads:
        found.append(f"threads {threads}")
    owned = sorted(state["owners"])
    # The page keeps the adapters that programs named last, each once.
    if owned != sorted(state["kept"]):
        found.append(f"adapters owned by nobody: {sorted(set(owned) - set(state['kept']))}")
    if set(state["loaded"]) - set(owned):
        found.append(f"adapters loaded for nobody: {sorted(set(state['loaded']) - set(owned))}")
    return [*found, *(f"the file {each}" for each in files)]

"""Which replica a visitor's requests go to. Values and a table; no network."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from composer.core.errors import ComposerError

NO_REPLICA = "No replica is ready: one is being started. Try again in a minute."
# Visitors who are remembered. Whoever is forgotten is given a replica anew.
MOST_VISITORS = 100_000
# Seconds for which a request keeps its visitor in place after it: a text is asked for in one request and read
# in the next one.
SETTLING = 5.0
# Seconds after which a visitor who asked for nothing counts as gone where replicas are compared.
PRESENT = 1800.0


@dataclass(frozen=True)
class Member:
    """A replica that answers."""

    # Of this process of it; the one that replaces it has another.
    key: str
    host: str
    port: int
    pid: int
    # It ends when the texts of its visitors have.
    draining: bool = False


@dataclass
class _Assignment:
    """Where a visitor is."""

    key: str
    # When they came, or the latest of them ended.
    last: float
    # Requests under way.
    under_way: int = 0


class ReplicaTable:
    """Gives visitors to replicas. A visitor stays with one while it answers.

    clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = monotonic):
        self._clock = clock
        self._members: dict[str, Member] = {}
        # The one that came last at the end.
        self._places: OrderedDict[str, _Assignment] = OrderedDict()

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(self._members.values())

    def update(self, members: Iterable[Member]) -> None:
        """Take over which replicas there are."""
        self._members = {each.key: each for each in members}

    def lose(self, key: str) -> bool:
        """Give nobody to this replica from now on. Returns whether it was there."""
        return self._members.pop(key, None) is not None

    def choose(self, visitor: str) -> Member:
        """The visitor's replica; another one where it has gone, or is draining and has no text of theirs.

        Raises ComposerError where there is none.
        """
        place = self._places.get(visitor)
        member = None if place is None else self._members.get(place.key)
        if member is None or (member.draining and not self._settling(place)):
            member = self._emptiest()
            self._places[visitor] = _Assignment(member.key, last=self._clock())
            if len(self._places) > MOST_VISITORS:
                self._places.popitem(last=False)
        self._places.move_to_end(visitor)
        return member

    @contextmanager
    def request(self, visitor: str) -> Iterator[None]:
        """The visitor stays where they are until the end of the block, and for a moment after it."""
        place = self._places[visitor]
        place.under_way += 1
        try:
            yield
        finally:
            place.under_way -= 1
            place.last = self._clock()

    def busy(self, key: str) -> bool:
        """Whether a visitor of this replica has a request under way there, or had one a moment ago."""
        return any(place.key == key and self._settling(place) for place in self._places.values())

    def _settling(self, place: _Assignment | None) -> bool:
        return place is not None and (place.under_way > 0 or self._clock() - place.last < SETTLING)

    def _emptiest(self) -> Member:
        if not self._members:
            raise ComposerError(NO_REPLICA)
        since = self._clock() - PRESENT
        visitors = Counter(place.key for place in self._places.values() if place.last >= since)
        # One that is draining only where there is no other.
        return min(self._members.values(), key=lambda each: (each.draining, visitors[each.key]))

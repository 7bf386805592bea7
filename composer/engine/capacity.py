"""What decodes together: as many branches as there are slots, fewer for a while after memory was not enough,
and no more keys and values than there may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import NamedTuple

from composer.model.runtime.batch import BatchRow
from composer.model.runtime.graphs.kv_pool import BLOCK

# Seconds after a shortage until twice as many are tried. A shortage may be a moment's, of work beside the
# texts; one that comes back after more were tried is not, and is given twice as long each time.
SHORTEST, LONGEST = 4.0, 64.0


class Room(NamedTuple):
    """Branches of a batch, and tokens whose keys and values it holds."""

    branches: int
    tokens: float

    @classmethod
    def of(cls, row: BatchRow) -> Room:
        """What a row needs until its end: each branch keeps its own tokens, in whole blocks."""
        length = len(row.ids) - row.count + row.sampling.max_new_tokens
        return cls(len(row.mixture), len(row.mixture) * -(-length // BLOCK) * BLOCK)

    def holds(self, need: Room) -> bool:
        return need.branches <= self.branches and need.tokens <= self.tokens

    def less(self, need: Room) -> Room:
        return Room(self.branches - need.branches, self.tokens - need.tokens)

    def or_more(self, need: Room) -> Room:
        """At least so much of either."""
        return Room(max(self.branches, need.branches), max(self.tokens, need.tokens))


@dataclass
class Capacity:
    """Halves with each shortage of memory, and doubles after a pause until it is `slots` again.

    tokens: of keys and values at most; 0: no limit.
    """

    slots: int
    # In seconds, from any moment on.
    clock: Callable[[], float] = monotonic
    tokens: int = 0
    branches: int = field(init=False)
    _pause: float = field(default=SHORTEST, init=False)
    _grow_at: float = field(default=0.0, init=False)
    # When more were tried last.
    _grown_at: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        self.branches = self.slots

    @property
    def room(self) -> Room:
        return Room(self.branches, self.tokens or inf)

    def shrink(self, running: int) -> None:
        """Memory was not enough for so many branches."""
        now = self.clock()
        soon = now - self._grown_at <= self._pause
        self._pause = min(2 * self._pause, LONGEST) if soon else SHORTEST
        self.branches, self._grow_at = max(running // 2, 1), now + self._pause

    def grow(self) -> None:
        """Try twice as many if it is time to."""
        now = self.clock()
        if self.branches < self.slots and now >= self._grow_at:
            self.branches = min(2 * self.branches, self.slots)
            self._grown_at, self._grow_at = now, now + self._pause

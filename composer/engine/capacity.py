"""How many branches decode together: all slots, and fewer for a while after memory was not enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

# Seconds after a shortage until twice as many are tried. A shortage may be a moment's, of work beside the
# texts; one that comes back after more were tried is not, and is given twice as long each time.
SHORTEST, LONGEST = 4.0, 64.0


@dataclass
class Capacity:
    """Halves with each shortage of memory, and doubles after a pause until it is `slots` again."""

    slots: int
    # In seconds, from any moment on.
    clock: Callable[[], float] = monotonic
    branches: int = field(init=False)
    _pause: float = field(default=SHORTEST, init=False)
    _grow_at: float = field(default=0.0, init=False)
    # When more were tried last.
    _grown_at: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        self.branches = self.slots

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

"""How long to pause between restarts of what fails again and again."""

from __future__ import annotations

from dataclasses import dataclass

# Seconds. The first restart comes at once.
FIRST, LONGEST = 0.25, 30.0
# Failures in a row after which nobody is left waiting for the next try.
ENOUGH = 5


@dataclass
class Backoff:
    """Failures in a row, and the pause after each: none, FIRST, and then twice as long up to LONGEST."""

    failures: int = 0

    def fail(self) -> float:
        """Count a failure. Returns the seconds to pause before the next try."""
        self.failures += 1
        doublings = min(self.failures - 2, 16)  # no more are needed to get to LONGEST
        return 0.0 if doublings < 0 else min(FIRST * 2**doublings, LONGEST)

    def succeed(self) -> None:
        """The next failure is the first one again."""
        self.failures = 0

    @property
    def exhausted(self) -> bool:
        """Whether it failed so often in a row that the next try will most likely fail too."""
        return self.failures >= ENOUGH

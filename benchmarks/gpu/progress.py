"""What is measured already, on disk after every step, and how much time is left."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import composer
from composer.core.errors import ComposerError

PARTIAL = "gpu-partial.json"
# Seconds that the last step may take.
RESERVE = 30


class Progress:
    """Figures by group and step; a run that was cut off goes on after its last step.

    folder: where the figures lie between two runs; None keeps them in memory only. setting: what two runs
    must share to be one; figures of another one are dropped. minutes: of this run; the last step begins
    RESERVE seconds before their end.
    """

    def __init__(self, folder: Path | None, setting: Mapping, minutes: float):
        self._file = folder and folder / PARTIAL
        self._setting = json.loads(json.dumps({**setting, "code": _code()}))
        self._until = time.monotonic() + 60 * minutes - RESERVE
        # Group -> step -> figures.
        self.figures: dict[str, dict] = self._stored()
        # "group: step" of those that no time was left for, and what could not be measured, with the reason.
        self.unfinished: list[str] = []
        self.failed: dict[str, str] = {}

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() > self._until

    def has(self, group: str, step: str) -> bool:
        return step in self.figures.get(group, {})

    def step(self, group: str, name: str, work: Callable[[], dict]) -> None:
        """Measure and keep it, unless it is there already or the time is over; a fault is noted."""
        if self.has(group, name):
            return
        if self.out_of_time:
            self.unfinished.append(f"{group}: {name}")
            return
        print(f"bench: gpu, {group}, {name} ...", file=sys.stderr)
        try:
            figures = work()
        except Exception as fault:  # of any library or of the card itself, out of memory above all
            self.fail(f"{group}: {name}", fault)
            return
        self.figures.setdefault(group, {})[name] = figures
        if self._file:
            kept = json.dumps({"setting": self._setting, "figures": self.figures}, allow_nan=False)
            self._file.write_text(kept, "utf-8")

    def fail(self, what: str, fault: Exception) -> None:
        """Note what could not be measured; the rest goes on."""
        reason = str(fault) if isinstance(fault, ComposerError) else type(fault).__name__
        print(f"bench: {what} is left out: {reason} ({str(fault)[:300]})", file=sys.stderr)
        self.failed[what] = reason

    def finish(self) -> None:
        """Remove the file once everything is measured: the next run measures anew."""
        if self._file and not self.unfinished and not self.failed:
            self._file.unlink(missing_ok=True)

    def _stored(self) -> dict[str, dict]:
        try:
            kept = json.loads(self._file.read_text("utf-8")) if self._file else {}
        except (OSError, ValueError):
            return {}
        return kept["figures"] if kept.get("setting") == self._setting else {}


def _code() -> str:
    """A digest of the package's sources: figures of an earlier version are not this one's."""
    digest = hashlib.sha256()
    for path in sorted(Path(composer.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()

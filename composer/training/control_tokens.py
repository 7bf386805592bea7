"""The control words by which a module trained on several labels is told which of them is wanted."""

from __future__ import annotations

from collections.abc import Iterable


def control(labels: Iterable[str]) -> str:
    """What stands before a text that has these labels: "[positive, sports] "."""
    return f"[{', '.join(labels)}] "

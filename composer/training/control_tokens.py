"""The control words that name the wanted labels to an adapter trained on several labels."""

from __future__ import annotations

from collections.abc import Iterable


def control(labels: Iterable[str]) -> str:
    """What stands before a text that has these labels: "[positive, sports] "."""
    return f"[{', '.join(labels)}] "

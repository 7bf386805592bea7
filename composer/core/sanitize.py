"""Quoting what strangers wrote."""

from __future__ import annotations

import re


def sanitize(text: object, limit: int = 60) -> str:
    """`text` cut to `limit` and reduced to harmless characters, fit to be quoted in a sentence."""
    flat = str(text)[: limit + 1]
    flat = flat if len(flat) <= limit else flat[: limit - 3] + "..."
    return re.sub(r"[^\w ./:@+=,()-]", "?", flat, flags=re.ASCII)

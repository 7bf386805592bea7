"""The error that reaches users, the checks of numbers that raise it, and quoting what strangers wrote."""

from __future__ import annotations

import math
import re


class ComposerError(ValueError):
    """A fault the user can cure. Its text is one sentence that says how, safe to show to anyone."""


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """A float inside [low, high], or a ComposerError naming `name` and the allowed range."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or not low <= number <= high:
        span = "a finite number" if math.isinf(low) else f"a number between {low:.10g} and {high:.10g}"
        raise ComposerError(f"{name} must be {span}; got {str(value)[:40]!r}.")
    return number


def check_int(name: str, value: object, low: int, high: int) -> int:
    number = check_number(name, value, low, high)
    if number != int(number):
        raise ComposerError(f"{name} must be a whole number between {low} and {high}; got {number:g}.")
    return int(number)


def quote_name(name: object, limit: int = 60) -> str:
    """A name as a sentence can quote it: as it is, or escaped where it has characters that nobody sees."""
    text = str(name)[:limit]
    return text if text.isprintable() else ascii(text)


def sanitize(text: object, limit: int = 60) -> str:
    """`text` cut to `limit` and reduced to harmless characters, fit to be quoted in a sentence."""
    flat = str(text)[: limit + 1]
    flat = flat if len(flat) <= limit else flat[: limit - 3] + "..."
    return re.sub(r"[^\w ./:@+=,()-]", "?", flat, flags=re.ASCII)

"""Names of adapters, methods and the like: new ones, and a sentence for those that nobody bears."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches


def free_name(source: str, taken: Collection[str]) -> str:
    """A short name from the repo's or folder's own, not yet taken."""
    stem = re.sub(r"[^\w.-]+", "-", source.replace("\\", "/").rstrip("/").rpartition("/")[2])[:40].strip(".-")
    stem = stem or "adapter"
    names = (f"{stem}-{i + 1}" if i else stem for i in range(len(taken) + 1))
    return next(name for name in names if name not in taken)


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The sentence for a name that nobody bears, with the nearest one that somebody does."""
    known = list(known)
    close = get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"There is no {kind} called {str(name)[:60]!r}.{hint} There are: {', '.join(known) or 'none'}."

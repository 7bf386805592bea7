"""Names of adapters, methods and the like: new ones, and sentences for those that cannot be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from difflib import get_close_matches

LONGEST = 100
# No adapter's name begins like this, so what is made of adapters can be named so.
RESERVED = "("


def unique_name(source: str, taken: Collection[str]) -> str:
    """A short name from the repo's or folder's own, which no name of those taken looks like."""
    last = unicodedata.normalize("NFKC", source.replace("\\", "/")).rstrip("/").rpartition("/")[2]
    stem = _of_one_alphabet(re.sub(r"[^\w.-]+", "-", last))[:40].strip(".-")
    stem, looks = stem or "adapter", {_look(name) for name in taken}
    names = (f"{stem}-{i + 1}" if i else stem for i in range(len(taken) + 1))
    return next(name for name in names if _look(name) not in looks)


def name_fault(name: object, taken: Iterable[str]) -> str | None:
    """The sentence about a name that an adapter cannot have beside those taken; None for a good one."""
    cure = "give the new one another name."
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST:
        return f"An adapter's name must be a text of 1 to {LONGEST} characters; {cure}"
    seen = all(char == " " or unicodedata.category(char)[0] not in "CZ" for char in name)
    if not seen or name != name.strip():
        return f"An adapter's name has invisible characters ({name[:40]!a}); {cure}"
    if name.startswith(RESERVED) or "," in name or "=" in name:
        return f"An adapter cannot be called {name}, since ',', '=' and a leading '(' mean something; {cure}"
    if _of_one_alphabet(name) != name:
        return f"The name {name} has letters of several alphabets, which look alike; {cure}"
    same = next((other for other in taken if _look(other) == _look(name)), None)
    if same is not None:
        return f"There is already an adapter called {same}; {cure}"
    return None


def merged_name(method: str, taken: Collection[str]) -> str:
    """The name of a merged adapter: the method's, in brackets if an adapter's name looks the same."""
    return method if _look(method) not in {_look(name) for name in taken} else f"{RESERVED}{method})"


def unknown_name_message(kind: str, name: object, known: Iterable[str]) -> str:
    """The sentence for an unknown name, with the nearest known one."""
    known = list(known)
    close = get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"There is no {kind} called {str(name)[:60]!r}.{hint} There are: {', '.join(known) or 'none'}."


def _look(name: str) -> str:
    """Equal for names that people take for the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _of_one_alphabet(text: str) -> str:
    """The text without its letters of other alphabets than Latin, if it has Latin ones too."""
    strange = {char for char in text if char.isalpha() and not _latin(char)}
    if not strange or not any(char.isalpha() and _latin(char) for char in text):
        return text
    return "".join("-" if char in strange else char for char in text)


def _latin(char: str) -> bool:
    return unicodedata.name(char, "").startswith("LATIN ")

"""Matches regexes of adapter configs against module paths, as PEFT does and in bounded time."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Sequence
from functools import lru_cache

import regex

from composer.core.errors import ComposerError

# Whole patterns that people write have a few hundred characters.
LONGEST = 4000
SECONDS = 1.0


class Patterns:
    """Runs regexes for `seconds` of its thread's own time in all; whatever takes longer raises ComposerError.

    A regex can be written to run for years, and `re` cannot be interrupted. `regex` can, and agrees with
    `re` on every pattern that gets here. option: the key of adapter_config.json that is at fault.
    """

    def __init__(self, seconds: float = SECONDS):
        self._left = seconds

    def full(self, option: str, pattern: str, path: str) -> bool:
        """Whether the pattern matches the whole path: PEFT's rule for target_modules and exclude_modules."""
        return self._run("fullmatch", option, pattern, path) is not None

    def tail(self, option: str, key: str, path: str) -> bool:
        """Whether the key matches the end of the path after a dot: PEFT's get_pattern_key."""
        if re.fullmatch(r"[\w.]+", key):
            return _ends(path, key)
        return self._run("match", option, rf"(.*\.)?({key})$", path) is not None

    def layer(self, option: str, patterns: Sequence[str], path: str) -> int | None:
        """The layer's number in the path, after a name that one of the patterns matches (none: any name)."""
        texts = [rf"(?:^|.*?\.){pattern}" for pattern in patterns] or [r".*?\.[^.]*"]
        for text in texts:
            if found := self._run("match", option, rf"{text}\.(?P<idx>\d+)\.", path):
                return int(found["idx"]) if found["idx"] else None
        return None

    def _run(self, how: str, option: str, text: str, path: str) -> regex.Match | None:
        compiled = _compiled(text)
        if isinstance(compiled, str):
            raise ComposerError(
                f"The adapter has a pattern in {option} that {compiled}: correct it in adapter_config.json."
            )
        while self._left > 0:
            began = time.thread_time()
            try:
                # Others' threads go on meanwhile.
                return getattr(compiled, how)(path, timeout=self._left, concurrent=True)
            except TimeoutError:
                continue  # its clock also runs while others compute; the time of this thread is what counts
            except (MemoryError, RecursionError):
                break
            finally:
                self._left -= time.thread_time() - began
        raise ComposerError(
            f"The adapter has a pattern in {option} that is too complex to be run safely: "
            "write plain module names instead in adapter_config.json."
        )


def _ends(path: str, key: str) -> bool:
    """`Patterns.tail` for a key of names and dots, where a dot stands for any character."""
    start = len(path) - len(key)
    if start < 0 or (start and path[start - 1] != "."):
        return False
    return all(mine in (its, ".") for mine, its in zip(key, path[start:], strict=True))


@lru_cache(maxsize=1024)
def _compiled(text: str) -> regex.Pattern | str:
    """The pattern, or what is wrong with it."""
    # Braces that are no count and double brackets mean something else to `regex`; no path has any.
    if len(text) > LONGEST or re.search(r"\{(?!\d*,?\d*\})|\[\[|\[:", text):
        return "is too complex to be run safely"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
            return regex.compile(text)
    except (re.error, regex.error, RecursionError, OverflowError, MemoryError):
        return "is no regular expression"

"""Prefixes that the experiments continue, and the two parts they fall into: development and report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from composer.core.assets import ASSETS
from composer.core.errors import ComposerError

BUNDLED = ASSETS / "prompts" / "pplm.txt"
# Everything is chosen on prompts of the first part and claimed on prompts of the second.
DEVELOPMENT, REPORT = "development", "report"


def load_prompts(path: Path = BUNDLED) -> tuple[str, ...]:
    """One prefix a line, blank lines skipped. Raises ComposerError for a file without any."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise ComposerError(
            "The prompts file cannot be read; give a UTF-8 text with one prompt a line."
        ) from fault
    prompts = tuple(dict.fromkeys(filter(None, (line.strip() for line in lines))))
    if not prompts:
        raise ComposerError("The prompts file is empty; write one prompt a line.")
    return prompts


def prompt_hash(text: str) -> str:
    """SHA-256 of the prompt in UTF-8, without white space around it; 64 hex digits."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


def part_of_hash(digest: str) -> str:
    """The part that a prompt with this hash belongs to: DEVELOPMENT where its last bit is 0, or REPORT."""
    return REPORT if int(digest[-1], 16) % 2 else DEVELOPMENT


def part(text: str) -> str:
    """The part that a prompt belongs to. Its text alone decides, so nobody can choose."""
    return part_of_hash(prompt_hash(text))


def prompts_of(prompts: Iterable[str], wanted: str, most: int | None = None) -> tuple[str, ...]:
    """The prompts of one part in the order of their hashes; at most the first `most` (None: all)."""
    own = {text for text in prompts if part(text) == wanted}
    return tuple(sorted(own, key=prompt_hash)[:most])

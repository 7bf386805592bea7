"""Prefixes that the experiments continue."""

from __future__ import annotations

from pathlib import Path

from composer.core.assets import ASSETS
from composer.core.errors import ComposerError

BUNDLED = ASSETS / "prompts" / "pplm.txt"


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

"""The factor before B A at a site: PEFT's rule, from a config that a stranger wrote."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache

from composer.adapters.text import plain
from composer.spec import ComposerError

MAX_ALPHA = 65_536


def scaling(config: Mapping, path: str, rank: int) -> float:
    """The factor PEFT puts before B A at the site `path`: alpha / rank, or alpha / sqrt(rank) for rsLoRA.

    alpha is `lora_alpha`, or that of the first `alpha_pattern` key which, as a regex, matches the end
    of `path` after a dot (PEFT's get_pattern_key). rank is the tensors', not the config's.
    rsLoRA: Kalajdzievski 2023, arXiv:2312.03732. Raises ComposerError for values that make no scaling.
    """
    alpha = config.get("lora_alpha", 8)
    patterns = config.get("alpha_pattern") or {}
    for key in _pattern_keys(patterns):
        if _matcher(key).match(path):
            alpha = patterns[key]
            break
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha <= MAX_ALPHA:
        raise ComposerError(
            f"The adapter has an alpha of {plain(alpha, 20)} in adapter_config.json: "
            f"set it to the number above 0 and up to {MAX_ALPHA} that it was trained with."
        )
    rslora = config.get("use_rslora")
    if rslora not in (None, True, False):
        raise ComposerError(
            "The adapter has a use_rslora that is not true or false: correct adapter_config.json."
        )
    return alpha / (math.sqrt(rank) if rslora else rank)


def _pattern_keys(patterns: object) -> tuple[str, ...]:
    """The keys of alpha_pattern, all safe to run as regexes; raises ComposerError if any is not.

    They come from a stranger, and a regex can be written to run for years. Names and simple patterns
    ("layers.0.self_attn.q_proj", r".*\\.(q|k)_proj") pass; nested or many repetitions do not.
    """
    if not isinstance(patterns, Mapping):
        raise ComposerError(
            "The adapter has an alpha_pattern that is not a mapping: correct adapter_config.json."
        )
    keys = tuple(patterns)
    wild = [key for key in keys if not re.fullmatch(r"[\w.]{1,200}", key)]
    if len(keys) > 4096 or len(wild) > 64 or not all(map(_safe, wild)):
        raise ComposerError(
            "The adapter has an alpha_pattern that is too complex to be run safely: "
            "write its keys as plain module names in adapter_config.json."
        )
    return keys


@lru_cache(maxsize=4096)
def _safe(key: str) -> bool:
    """Whether a regex is a short, flat one whose cost grows no faster than the square of the path."""
    if not re.fullmatch(r"(?:[\w.^$|()\[\]*+?-]|\\[.dw]){1,200}", key, re.ASCII):
        return False
    if re.search(r"\)[*+?]|\(\?|[*+?]{2}", key) or len(re.findall(r"[*+?]", key)) > 2 or key.count("(") > 2:
        return False
    try:
        _matcher(key)
    except re.error:
        return False
    return True


@lru_cache(maxsize=4096)
def _matcher(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")

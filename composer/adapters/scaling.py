"""The rank and the scaling of B A at a site: PEFT's rules, for configs that are not trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from composer.adapters.fit.patterns import Patterns
from composer.core.errors import ComposerError, sanitize

MAX_ALPHA = 65_536
MOST_KEYS = 4096


def scaling(config: Mapping[str, Any], path: str, rank: int, patterns: Patterns | None = None) -> float:
    """The factor PEFT puts before B A at the site `path`: alpha / rank, or alpha / sqrt(rank) for rsLoRA.

    alpha is `lora_alpha`, or that of the first `alpha_pattern` key which, as a regex, matches the end
    of `path` after a dot (PEFT's get_pattern_key). rsLoRA: Kalajdzievski 2023, arXiv:2312.03732. Raises
    ComposerError for values that make no scaling.
    """
    alpha = _at(config, "alpha_pattern", path, config.get("lora_alpha", 8), patterns or Patterns())
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha <= MAX_ALPHA:
        raise ComposerError(
            f"The adapter has an alpha of {sanitize(alpha, 20)} in adapter_config.json: "
            f"set it to the number above 0 and up to {MAX_ALPHA} that it was trained with."
        )
    rslora = config.get("use_rslora")
    if rslora not in (None, True, False):
        raise ComposerError(
            "The adapter has a use_rslora that is not true or false: correct adapter_config.json."
        )
    return alpha / (math.sqrt(rank) if rslora else rank)


def rank_at(config: Mapping[str, Any], path: str, patterns: Patterns | None = None) -> int:
    """The config's rank at the site `path`: that of the first matching `rank_pattern` key, otherwise `r`.

    Raises ComposerError for a value that is no rank.
    """
    rank = _at(config, "rank_pattern", path, config.get("r", 8), patterns or Patterns())
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ComposerError(
            f"The adapter has an r in adapter_config.json ({sanitize(repr(rank), 20)}, "
            f"for {sanitize(path, 80)}) that is not a whole number above 0: write the rank that it was "
            "trained with."
        )
    return rank


def _at(config: Mapping[str, Any], option: str, path: str, default: object, patterns: Patterns) -> object:
    values = config.get(option) or {}
    if not isinstance(values, Mapping):
        raise ComposerError(
            f"The adapter has {_article(option)} {option} that is not a mapping: correct adapter_config.json."
        )
    if len(values) > MOST_KEYS:
        raise ComposerError(
            f"The adapter has {_article(option)} {option} that is too complex to be run safely: "
            f"write at most {MOST_KEYS} keys in adapter_config.json."
        )
    return next((value for key, value in values.items() if patterns.tail(option, key, path)), default)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"

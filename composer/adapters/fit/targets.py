"""Which layers an adapter config targets: PEFT's check_target_module_exists, for configs that are not
trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from composer.adapters.fit.patterns import Patterns
from composer.core.errors import ComposerError, sanitize

# PEFT shortens lists from this length on to common endings, after which no layer is listed by its whole path.
SHORTENED = 20


def left_out(
    config: Mapping[str, Any],
    paths: Iterable[str],
    default_targets: Callable[[], Collection[str]],
    patterns: Patterns,
) -> dict[str, list[str]]:
    """The paths of linear layers where PEFT would put no adapter, by the option that leaves them out.

    usual: gives the targets of a config that names none. Raises ComposerError for options that
    PEFT refuses too.
    """
    targets = _names(config, "target_modules")
    excluded = _names(config, "exclude_modules")
    if targets is None:
        targets = frozenset(default_targets())
        if not targets:
            raise ComposerError(
                "The adapter has no target_modules in adapter_config.json: write the names of the layers "
                "that it was trained on."
            )
    layers = _layers(config, targets)
    found: dict[str, list[str]] = {}
    for path in paths:
        if excluded and _listed("exclude_modules", excluded, path, patterns):
            found.setdefault("exclude_modules", []).append(path)
        elif not _listed("target_modules", targets, path, patterns):
            found.setdefault("target_modules", []).append(path)
        elif layers is not None and not _in_layers(config, targets, layers, path, patterns):
            found.setdefault("layers_to_transform", []).append(path)
    return found


def _listed(option: str, names: str | frozenset[str], path: str, patterns: Patterns) -> bool:
    if isinstance(names, str):
        everything = option == "target_modules" and names.lower() == "all-linear"
        return everything or patterns.full(option, names, path)
    parts = path.split(".")
    return any(".".join(parts[start:]) in names for start in range(len(parts)))


def _in_layers(
    config: Mapping[str, Any],
    targets: str | frozenset[str],
    layers: Sequence[int],
    path: str,
    patterns: Patterns,
) -> bool:
    if path in targets and len(targets) < SHORTENED:
        return True
    before = config.get("layers_pattern") or []
    named = [before] if isinstance(before, str) else before
    return patterns.layer("layers_pattern", named, path) in layers


def _names(config: Mapping[str, Any], option: str) -> str | frozenset[str] | None:
    """One regex, or the ends of paths."""
    value = config.get(option)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return frozenset(value)
    raise ComposerError(
        f"The adapter has {option} in adapter_config.json that are neither a text nor a list of texts "
        f"({sanitize(value, 40)}): write the names of the layers."
    )


def _layers(config: Mapping[str, Any], targets: str | frozenset[str]) -> Sequence[int] | None:
    """The layers' numbers that layers_to_transform allows; None: all."""
    value, before = config.get("layers_to_transform"), config.get("layers_pattern")
    numbers = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise ComposerError(
            "The adapter has layers_to_transform in adapter_config.json that are not whole numbers "
            f"({sanitize(value, 40)}): write the layers' numbers, counted from 0."
        )
    patterns = [] if before is None else before if isinstance(before, list) else [before]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ComposerError(
            "The adapter has a layers_pattern in adapter_config.json that is not a text: write the name of "
            "the base's list of layers, such as layers."
        )
    if isinstance(targets, str) and not (value is None and before is None):
        raise ComposerError(
            "The adapter has layers_to_transform or layers_pattern beside a target_modules that is one text, "
            "which PEFT refuses: put the layers into the pattern, or write target_modules as a list."
        )
    if before and value is None:
        raise ComposerError(
            "The adapter has a layers_pattern without layers_to_transform, which PEFT refuses: "
            "remove it from adapter_config.json or add the layers' numbers."
        )
    return numbers or None

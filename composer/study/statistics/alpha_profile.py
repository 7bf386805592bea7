"""What KL fusion does with prompts, layer by layer: the study's own, and those that belong to an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from composer.analysis.norm_correlation import alpha_norm_correlation
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.evaluation.prompts import BUNDLED
from composer.study.statistics.permutation_test import PermutationResult, follow, follow_each

OWN = BUNDLED.with_name("own.tsv")


@dataclass(frozen=True)
class AlphaProfile:
    """Alpha of one attribute's adapters."""

    attribute: str
    names: tuple[str, ...]
    # [L, N], mean over the study's prompts, which belong to no adapter.
    alpha: np.ndarray
    # [L, N], mean over each adapter's own prompts of what they give it.
    own: np.ndarray
    # overall, last: the permutation test on the mean over layers and on the last layer.
    overall: PermutationResult
    last: PermutationResult
    # Adapter -> the test on it alone, over layers.
    each: dict[str, PermutationResult]
    # Of alpha with the adapters' norms, mean over the study's prompts; None if undefined.
    norm_correlation: float | None


def profile_of(plain: Mapping[str, Any]) -> AlphaProfile:
    """A profile of plain values, None for NaN. Raises KeyError, TypeError or ValueError for others."""
    return AlphaProfile(
        str(plain["attribute"]),
        tuple(map(str, plain["names"])),
        np.array(plain["alpha"], dtype=np.float64),
        np.array(plain["own"], dtype=np.float64),
        PermutationResult(**plain["overall"]),
        PermutationResult(**plain["last"]),
        {str(name): PermutationResult(**each) for name, each in plain["each"].items()},
        plain["norm_correlation"],
    )


def load_own(path: Path = OWN) -> tuple[tuple[str, str], ...]:
    """(adapter, prompt) pairs, a line each with a tab between. Raises ComposerError for another file."""
    try:
        lines = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as fault:
        raise ComposerError("The adapters' own prompts cannot be read; give a UTF-8 text.") from fault
    if not all(len(line) == 2 and all(map(str.strip, line)) for line in lines):
        raise ComposerError("Each line of the adapters' own prompts must be an adapter, a tab and a prompt.")
    return tuple((line[0].strip(), line[1].strip()) for line in lines)


def patterns(engine: Engine, prompts: Sequence[str], own: Sequence[tuple[str, str]]) -> list[AlphaProfile]:
    """A Pattern per attribute that has two adapters with prompts of their own."""
    found = []
    for group in engine.attributes:
        theirs = [(name, prompt) for name, prompt in own if name in group.members]
        if len({name for name, _ in theirs}) > 1:
            found.append(_pattern(engine, group.name, group.members, prompts, theirs))
    return found


def _pattern(
    engine: Engine,
    attribute: str,
    names: tuple[str, ...],
    prompts: Sequence[str],
    own: Sequence[tuple[str, str]],
) -> AlphaProfile:
    neutral = [engine.fusion(prompt, names) for prompt in prompts]
    alpha = np.stack([engine.fusion(prompt, names).alpha for _, prompt in own])  # [P, L, N]
    owners = [names.index(name) for name, _ in own]
    mine = np.full(alpha.shape[1:], np.nan)  # [L, N]
    for column in set(owners):
        mine[:, column] = alpha[np.array(owners) == column, :, column].mean(axis=0)
    correlations = [alpha_norm_correlation(engine, fusion, names) for fusion in neutral]
    known = [value for value in correlations if value is not None]
    return AlphaProfile(
        attribute,
        names,
        np.mean([fusion.alpha for fusion in neutral], axis=0),
        mine,
        follow(alpha.mean(axis=1), owners),
        follow(alpha[:, -1], owners),
        {names[column]: each for column, each in follow_each(alpha.mean(axis=1), owners).items()},
        float(np.mean(known)) if known else None,
    )

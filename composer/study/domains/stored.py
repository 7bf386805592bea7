"""The test without judges as it is stored beside a study's run: domains.json, read without a base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from composer.core.errors import ComposerError
from composer.evaluation.metrics import Interval
from composer.study.domains.in_words import in_short
from composer.study.domains.statistics import QueryTest, ShareProfile, WaySummary
from composer.study.statistics.permutation_test import PermutationResult

FILE = "domains.json"
# What a file of something else can raise while it is read.
DAMAGES = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True, eq=False)
class StoredDomains:
    """What of the test a report shows."""

    # Of the domains, each with an adapter of its name.
    names: tuple[str, ...]
    ways: tuple[WaySummary, ...]
    tests: tuple[QueryTest, ...]
    # By measure.
    shares: Mapping[str, ShareProfile]
    # `in_short` of all that.
    sentences: tuple[str, ...]
    notes: tuple[str, ...]


def read_domains(folder: Path) -> StoredDomains | None:
    """None where the folder has no such file. Raises ComposerError for one that is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text("utf-8"))
        names = tuple(map(str, stored["names"]))
        ways = tuple(map(_way, stored["ways"]))
        tests = tuple(map(_test, stored["query_tests"]))
        shares = {str(name): _share(each) for name, each in stored["shares"].items()}
        sentences = tuple(in_short(names, ways, tests, shares))
        return StoredDomains(names, ways, tests, shares, sentences, tuple(map(str, stored["notes"])))
    except DAMAGES as fault:
        raise ComposerError(
            f"{FILE} in the run's folder is damaged; make it again with: python -m composer domains"
        ) from fault


def _way(stored: Mapping[str, Any]) -> WaySummary:
    return WaySummary(
        str(stored["label"]),
        str(stored["total"]),
        float(stored["loss"]),
        Interval(**stored["minus_base"]),
        Interval(**stored["minus_average"]),
        Interval(**stored["recovered"]) if stored["recovered"] else None,
        {str(name): Interval(**each) for name, each in stored["domains"].items()},
    )


def _test(stored: Mapping[str, Any]) -> QueryTest:
    gaps = (Interval(**stored[name]) for name in ("minus_blind", "minus_permuted"))
    return QueryTest(str(stored["label"]), float(stored["own"]), *gaps)


def _share(stored: Mapping[str, Any]) -> ShareProfile:
    names = ("by_layer", "low", "high", "top1_by_layer", "mean", "confusion")
    arrays = {name: np.array(stored[name], dtype=np.float64) for name in names}
    return ShareProfile(
        label=str(stored["label"]),
        share=Interval(**stored["share"]),
        top1=Interval(**stored["top1"]),
        follows=PermutationResult(**stored["follows"]),
        weight_correlation=stored["weight_correlation"],
        output_correlation=stored["output_correlation"],
        fixed=float(stored["fixed"]),
        **arrays,
    )

"""Recipes of an engine: which base and which adapters a composition is for, and whether they are here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from composer.adapters.files import WEIGHTS
from composer.adapters.recipe import Recipe, Source
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError, sanitize
from composer.engine.engine import Engine


def recipe_of(
    engine: Engine,
    prompt: str,
    composition: Composition,
    sampling: Sampling,
    tab: str = "",
    sources: Mapping[str, Source] = MappingProxyType({}),
) -> Recipe:
    """The recipe of a text of this engine, with the commits that were loaded.

    sources: where adapters are from that need not be loaded now.
    """
    used = {name: weight for name, weight in composition.weights.items() if weight}
    composition, base = replace(composition, weights=used), engine.base.spec
    return Recipe(
        Source(base.id, base.revision),
        prompt,
        composition,
        sampling,
        MappingProxyType({name: sources.get(name) or source_of(engine, name) for name in used}),
        tab,
    )


def source_of(engine: Engine, name: str) -> Source:
    """Where a loaded adapter is from, as `adapter_source` says it."""
    spec = engine.snapshot.adapters[engine.snapshot.index(name)]
    report = next((each for each in engine.reports if each.name == name and each.ok), None)
    return adapter_source(spec.source, spec.revision or (report.revision if report else None))


def adapter_source(source: str, revision: str | None) -> Source:
    """Where an adapter is from. A folder's path stays private: its weights are named by their hash."""
    weights = Path(source) / WEIGHTS
    if weights.is_file():
        return Source(sha256=_hash(weights, weights.stat().st_mtime_ns))
    return Source(source, revision)


@lru_cache(maxsize=256)
def _hash(path: Path, changed: int) -> str:
    """The first 16 hex digits of the file's SHA-256. changed: when it was; part of the cache's key."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def check_recipe(
    engine: Engine,
    recipe: Recipe,
    names: Sequence[str] | None = None,
    sources: Mapping[str, Source] = MappingProxyType({}),
) -> list[str]:
    """Sentences on what is other here than where the recipe was made; empty if nothing is.

    names: the adapters that there are (None: all that are loaded). sources: of others that there are too.

    Raises ComposerError for a recipe of another base, and for one with an adapter that is not loaded.
    """
    base = engine.base.spec
    if recipe.base.id not in (None, base.id):
        raise ComposerError(
            f"The recipe is for the base {sanitize(recipe.base.id)}, and {base.id} is loaded; "
            "start with the recipe's base."
        )
    composition = recipe.composition
    named = {*composition.weights, *composition.curves, *composition.schedule}
    names = engine.names if names is None else names
    missing = sorted(named - {*names, *sources})
    if missing:
        first = missing[0]
        source = recipe.adapters.get(first, Source()).id
        where = f"add {sanitize(source)} under Adapters first" if source else "load it first"
        raise ComposerError(f"The recipe uses the adapter {sanitize(first)}, which is not here; {where}.")
    return [
        f"The adapter {sanitize(name)} has other weights here."
        for name, source in recipe.adapters.items()
        if (name in names or name in sources)
        and _differs(source, sources.get(name) or source_of(engine, name))
    ]


def _differs(one: Source, other: Source) -> bool:
    pairs = ((one.sha256, other.sha256), (one.id, other.id), (one.revision, other.revision))
    return any(a is not None and b is not None and a != b for a, b in pairs)

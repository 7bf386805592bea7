"""Where the texts are that a base wrote for a recipe, under a name that changes with what changes them."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from composer.core.assets import ASSETS
from composer.training.recipes import NGRAMS, Recipe

# Those of the bundled adapters: writing them takes as long as training, and another machine's are others.
KEPT = ASSETS / "training"
# What the base's own continuations depend on; those of a first round's adapter on the whole recipe.
_WRITING = ("name", "label", "corpora", "contrast", "confidence", "length", "seed", "opening_words", "shape")


def file_name(recipe: Recipe, base: str, first_round: Recipe | None = None) -> str:
    """Of the texts that the base (its id) wrote for the recipe, such as positive-0123456789.jsonl.

    How many there are is not part of it: more of them begin with the same ones. first_round: the recipe of
    the adapter that wrote them; None: of the base's own texts.
    """
    if first_round is None:
        kind, settings = "", asdict(recipe)
        settings = {name: settings[name] for name in _WRITING}
    else:
        kind, settings = "rewritten-", asdict(first_round)
        del settings["save_every"], settings["filter"]
    if recipe.filter != NGRAMS:  # names are from when n-grams were all there was
        settings["filter"] = recipe.filter
    content = json.dumps([base, settings], sort_keys=True, default=str)
    return f"{recipe.name}-{kind}{hashlib.sha256(content.encode()).hexdigest()[:10]}.jsonl"


def fill_from_kept(file: Path, kept: Path = KEPT) -> bool:
    """Whether texts of this name were kept; they are put into `file` where there is none yet."""
    stored = kept / f"{file.name}.gz"
    if file.is_file() or not stored.is_file():
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.decompress(stored.read_bytes()))
    return True


def keep(file: Path, kept: Path = KEPT) -> Path:
    """Store a file of texts for other runs. The same texts make the same bytes."""
    kept.mkdir(parents=True, exist_ok=True)
    stored = kept / f"{file.name}.gz"
    stored.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    return stored

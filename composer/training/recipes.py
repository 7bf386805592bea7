"""recipes.yaml as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from composer.spec import ComposerError

BUNDLED = Path(__file__).with_name("recipes.yaml")


@dataclass(frozen=True)
class HubSet:
    """Where the same rows are on the Hub: dataset id, split, column names, and raw label -> our label."""

    id: str
    split: str
    text: str
    label: str
    labels: Mapping[object, str]


@dataclass(frozen=True)
class Corpus:
    name: str
    file: str
    hub: HubSet
    side: str
    licence: str


@dataclass(frozen=True)
class Recipe:
    """All that decides how one adapter comes out."""

    name: str
    label: str
    corpora: tuple[Corpus, ...]
    openers: tuple[Corpus, ...]
    rank: int
    alpha: float
    dropout: float
    learning_rate: float
    steps: int
    batch: int
    length: int
    warmup: float
    seed: int
    save_every: int
    opener_share: float
    confidence: float
    gain: float
    written: int
    written_share: float
    rewritten: int


def load_recipes(path: Path = BUNDLED) -> dict[str, Recipe]:
    """Recipe name -> Recipe. Raises ComposerError for a file that is not what the comments in it describe."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
        corpora = {
            name: Corpus(name, entry["file"], HubSet(**entry["hub"]), entry["side"], entry["licence"])
            for name, entry in raw["corpora"].items()
        }
        return {
            name: _recipe(name, {**raw["defaults"], **own}, corpora) for name, own in raw["adapters"].items()
        }
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as fault:
        raise ComposerError(
            f"The recipe file cannot be used ({fault}); compare it with the bundled one."
        ) from fault


def _recipe(name: str, entry: dict, corpora: dict[str, Corpus]) -> Recipe:
    pick = {key: tuple(corpora[item] for item in entry.pop(key, ())) for key in ("corpora", "openers")}
    unknown = set(entry) - {field.name for field in fields(Recipe)}
    if unknown:
        raise ComposerError(
            f"The recipe {name} has keys nobody reads: {', '.join(sorted(unknown))}; remove them."
        )
    return Recipe(name=name, **pick, **entry)

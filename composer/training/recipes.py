"""recipes.yaml as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from composer.core.errors import ComposerError

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
    """labels: the file's label -> ours; rows with another are left out. where: a row's field -> the value
    it must have. hub: None where the Hub has no set of this form. origin: where the rows come from.
    """

    name: str
    file: str
    hub: HubSet | None
    side: str
    licence: str
    labels: Mapping[str, str]
    where: Mapping[str, str]
    origin: str

    def described(self, label: str) -> str:
        """Its origin, and which of its rows are a recipe's label."""
        raw = " or ".join(f"*{raw}*" for raw, ours in self.labels.items() if ours == label)
        part = "".join(f", {field} {value}" for field, value in self.where.items())
        return f"`{self.origin}` (rows labelled {raw}{part})"


@dataclass(frozen=True)
class Recipe:
    """All that decides how one adapter comes out.

    union: recipes whose texts it takes, each after control words that name its label; then it has no label
    and no corpora of its own. second: corpora whose classifier gives each of those texts a second label,
    at `confidence`; texts of which it is less sure are left out. Texts that have one of those labels by
    their recipe keep it as their only one.
    """

    name: str
    label: str | None
    union: tuple[Recipe, ...]
    second: tuple[Corpus, ...]
    corpora: tuple[Corpus, ...]
    contrast: tuple[Corpus, ...]
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
    opening_words: tuple[int, int]
    shape: str | None
    joint: str
    rewritten: int

    @property
    def second_labels(self) -> tuple[str, ...]:
        """The labels that `second` tells apart."""
        return tuple(sorted({label for corpus in self.second for label in corpus.labels.values()}))


def load_recipes(path: Path = BUNDLED) -> dict[str, Recipe]:
    """Recipe name -> Recipe. Raises ComposerError for a file that is not what the comments in it describe."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
        corpora = {name: _corpus(name, entry) for name, entry in raw["corpora"].items()}
        recipes: dict[str, Recipe] = {}
        for name, own in raw["adapters"].items():
            recipes[name] = _recipe(name, {**raw["defaults"], **own}, corpora, recipes)
        return recipes
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as fault:
        raise ComposerError(
            f"The recipe file cannot be used ({fault}); compare it with the bundled one."
        ) from fault


def _corpus(name: str, entry: dict) -> Corpus:
    hub = HubSet(**entry["hub"]) if "hub" in entry else None
    own = {label: label for label in hub.labels.values()} if hub else {}
    return Corpus(
        name,
        entry["file"],
        hub,
        entry["side"],
        entry["licence"],
        entry.get("labels", own),
        entry.get("where", {}),
        hub.id if hub else entry["origin"],
    )


def _recipe(name: str, entry: dict, corpora: dict[str, Corpus], above: dict[str, Recipe]) -> Recipe:
    groups = ("corpora", "contrast", "openers", "second")
    pick = {key: tuple(corpora[item] for item in entry.pop(key, ())) for key in groups}
    union = tuple(above[member] for member in entry.pop("union", ()))
    if union:
        entry |= {"label": None}
    entry["opening_words"] = tuple(entry["opening_words"])
    unknown = set(entry) - {field.name for field in fields(Recipe)}
    if unknown:
        raise ComposerError(
            f"The recipe {name} has keys nobody reads: {', '.join(sorted(unknown))}; remove them."
        )
    return Recipe(name=name, union=union, **pick, **entry)

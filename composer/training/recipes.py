"""recipes.yaml as values."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from composer.adapters.strict_yaml import Strict, parse, parse_dataclass, read_yaml
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message

BUNDLED = Path(__file__).with_name("recipes.yaml")
KIND = "recipe file"
# What says which of the base's texts carry the label.
NGRAMS, LANGUAGE_MODEL = "ngrams", "language_model"
Filter = Literal["ngrams", "language_model"]
OLD_KEYS = {
    "openers": "distractor_prefixes",
    "opener_share": "distractor_share",
    "gain": "alpha_gain",
    "written": "self_generated",
    "written_share": "self_generated_share",
    "rewritten": "second_round",
    "joint": "separator",
}


@dataclass(frozen=True)
class HubSet:
    """Where the same rows are on the Hub."""

    id: str
    split: str
    text: str  # name of the column with the text
    label: str  # name of the column with the label
    labels: Mapping[Any, str]  # the column's label -> ours


@dataclass(frozen=True)
class Corpus:
    """Labelled text, in a file and perhaps on the Hub too."""

    name: str
    file: str
    hub: HubSet | None  # None: the Hub has no set of this form
    side: str  # "adapter" or "all": which rows adapters may see
    licence: str
    labels: Mapping[str, str]  # the file's label -> ours; rows with another are left out
    where: Mapping[str, str]  # a row's field -> the value it must have
    origin: str  # where the rows come from

    def described(self, label: str) -> str:
        """Its origin, and which of its rows are a recipe's label."""
        raw = " or ".join(f"*{raw}*" for raw, ours in self.labels.items() if ours == label)
        part = "".join(f", {field} {value}" for field, value in self.where.items())
        return f"`{self.origin}` (rows labelled {raw}{part})"


@dataclass(frozen=True)
class TrainingSettings:
    """What the trainer needs to know of an adapter."""

    name: str
    rank: int
    alpha: float
    dropout: float
    learning_rate: float
    steps: int
    batch: int  # sequences a step
    length: int  # tokens a sequence
    warmup: float  # share of the steps
    seed: int
    save_every: int  # steps
    alpha_gain: float


@dataclass(frozen=True)
class Recipe(TrainingSettings):
    """Everything that decides how one adapter comes out. recipes.yaml explains each key."""

    label: str | None  # None for a union
    # Recipes whose texts it takes, each after control words that name its label.
    union: tuple[Recipe, ...]
    # Of a union: corpora whose classifier gives each text a second label.
    second: tuple[Corpus, ...]
    corpora: tuple[Corpus, ...]
    contrast: tuple[Corpus, ...]
    distractor_prefixes: tuple[Corpus, ...]
    distractor_share: float
    confidence: float  # a probability
    filter: Filter
    self_generated: int
    self_generated_share: float
    opening_words: tuple[int, int]  # fewest, most
    silent_openings: bool
    shape: str | None
    separator: str
    second_round: int

    @property
    def second_labels(self) -> tuple[str, ...]:
        """The labels of the classifier of `second`."""
        return tuple(sorted({label for corpus in self.second for label in corpus.labels.values()}))


def load_recipes(path: Path = BUNDLED, base: str | None = None) -> dict[str, Recipe]:
    """Recipe name -> Recipe.

    base: the catalog's name of the base to train on; what the file says under `bases` for it goes before the
    rest. Raises ComposerError, naming the key, for a file that is not as the bundled one's comments say.
    """
    file = parse(RecipeFile, read_yaml(path, KIND), KIND)
    corpora = {name: _corpus(name, entry) for name, entry in file.corpora.items()}
    recipes: dict[str, Recipe] = {}
    special = file.bases.get(base or "", {})
    if strange := [name for name in special if name not in file.adapters]:
        raise ComposerError(
            f"{KIND.capitalize()}: {unknown_name_message('recipe', strange[0], file.adapters)}"
        )
    for name, own in file.adapters.items():
        entry = {**file.defaults, **own, **special.get(name, {})}
        recipes[name] = _recipe(name, _renamed(entry), corpora, recipes)
    return recipes


class RecipeFile(Strict):
    """The outer mappings of a recipe file."""

    corpora: dict[str, dict[str, Any]]
    defaults: dict[str, Any]
    adapters: dict[str, dict[str, Any]]
    bases: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)


def _renamed(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with today's names for keys that had others."""
    for old in OLD_KEYS.keys() & entry.keys():
        warnings.warn(
            f"The recipe key {old} is called {OLD_KEYS[old]} now.", DeprecationWarning, stacklevel=3
        )
    return {OLD_KEYS.get(key, key): value for key, value in entry.items()}


def _corpus(name: str, entry: dict[str, Any]) -> Corpus:
    where = f"corpora.{name}"
    entry = {"labels": {}, "where": {}, "hub": None, **entry, "name": name}
    if entry["hub"] is not None:
        entry["hub"] = hub = parse_dataclass(HubSet, entry["hub"], KIND, f"{where}.hub")
        entry["labels"] = entry["labels"] or {label: label for label in hub.labels.values()}
        entry["origin"] = hub.id
    return parse_dataclass(Corpus, entry, KIND, where)


def _recipe(
    name: str, entry: dict[str, Any], corpora: Mapping[str, Corpus], above: Mapping[str, Recipe]
) -> Recipe:
    where = f"adapters.{name}"
    picked: dict[str, Any] = {
        key: _pick(entry, key, corpora, where)
        for key in ("corpora", "contrast", "distractor_prefixes", "second")
    }
    picked["union"] = _pick(entry, "union", above, where)
    if picked["union"]:
        picked["label"] = None
    if isinstance(words := entry.get("opening_words"), list):
        picked["opening_words"] = tuple(words)
    return parse_dataclass(Recipe, {**entry, **picked, "name": name}, KIND, where)


def _pick(entry: Mapping[str, Any], key: str, known: Mapping[str, Any], where: str) -> tuple[Any, ...]:
    names = entry.get(key, [])
    if not isinstance(names, list):
        raise ComposerError(f"{KIND.capitalize()}: {where}.{key} must be a list.")
    if strange := [name for name in names if name not in known]:
        raise ComposerError(
            f"{KIND.capitalize()}: {where}.{key}: {unknown_name_message(key, str(strange[0]), known)}"
        )
    return tuple(known[name] for name in names)

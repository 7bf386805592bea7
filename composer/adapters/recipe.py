"""A recipe: all that a text was made with, as values, as YAML, and read back from strangers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from composer.adapters.hub import valid_repo_id
from composer.adapters.strict_yaml import read_stranger_yaml
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError, sanitize

VERSION = 1
KEYS = ("version", "base", "adapters", "prompt", "composition", "sampling", "tab")
LONGEST_PROMPT = 20_000
MOST_ADAPTERS = 256
LONGEST_ID = 300
# Longest text that is parsed.
LONGEST_YAML = 100_000


@dataclass(frozen=True)
class Source:
    """Where a base or an adapter is from."""

    # The Hub repository; None for a file that comes with the project or lies in a folder.
    id: str | None = None
    # The commit, 40 hex digits.
    revision: str | None = None
    # Of the weights, where there is no repository: the first 16 hex digits.
    sha256: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Prompt, composition and sampling, with the base and the adapters that they are for."""

    base: Source
    prompt: str
    composition: Composition = Composition()
    sampling: Sampling = Sampling()
    # Those with a weight, by name.
    adapters: Mapping[str, Source] = field(default_factory=lambda: MappingProxyType({}))
    # The page's tab.
    tab: str = ""

    def as_dict(self) -> dict[str, object]:
        """Plain values; what is at its default is left out, and the time limit is the server's."""
        plain, untouched = self.composition.as_dict(), Composition().as_dict()
        sampling, default = asdict(self.sampling), asdict(Sampling())
        whole = {
            "version": VERSION,
            "base": _without_none(asdict(self.base)),
            "adapters": {name: _without_none(asdict(each)) for name, each in self.adapters.items()},
            "prompt": self.prompt,
            "composition": {name: plain[name] for name in plain if plain[name] != untouched[name]},
            "sampling": {
                name: sampling[name]
                for name in sampling
                if name != "time_limit" and (name == "seed" or sampling[name] != default[name])
            },
        }
        return whole | ({"tab": self.tab} if self.tab else {})


def _without_none(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def read_recipe(document: object) -> Recipe:
    """The recipe in plain values from outside. Raises ComposerError with one sentence for anything else."""
    given = _mapping(document, "The recipe", KEYS)
    version = given.get("version")
    if version != VERSION or isinstance(version, bool):
        raise ComposerError(
            f"The recipe has version {sanitize(version, 20)}, and {VERSION} is read here; make it anew."
        )
    adapters = given.get("adapters", {})
    if not isinstance(adapters, Mapping) or len(adapters) > MOST_ADAPTERS:
        raise ComposerError("The recipe's adapters must be an object of names.")
    prompt = given.get("prompt", "")
    if not isinstance(prompt, str) or len(prompt) > LONGEST_PROMPT:
        raise ComposerError(f"The recipe's prompt must be a text of at most {LONGEST_PROMPT} characters.")
    tab = given.get("tab", "")
    return Recipe(
        _source(given.get("base", {}), "base"),
        prompt,
        _composition(given.get("composition", {})),
        _sampling(given.get("sampling", {})),
        MappingProxyType({_name(name): _source(each, _name(name)) for name, each in adapters.items()}),
        tab if isinstance(tab, str) and tab.isidentifier() and len(tab) < 40 else "",
    )


def _composition(given: object) -> Composition:
    values = _mapping(given, "The recipe's composition", [each.name for each in fields(Composition)])
    weights, bands = values.get("weights", {}), values.get("bands", (1, 1, 1))
    if not isinstance(weights, Mapping) or len(weights) > MOST_ADAPTERS:
        raise ComposerError("The recipe's weights must be an object of adapters and numbers.")
    if not isinstance(bands, list | tuple) or len(bands) != 3:
        raise ComposerError("The recipe's layer bands must be three numbers.")
    if not isinstance(values.get("method", "sum"), str):
        raise ComposerError("The recipe's method must be a name.")
    return Composition(**{**values, "weights": {_name(name): each for name, each in weights.items()}})


def _sampling(given: object) -> Sampling:
    names = [each.name for each in fields(Sampling) if each.name != "time_limit"]
    return Sampling(**_mapping(given, "The recipe's sampling", names))


def _source(given: object, what: str) -> Source:
    values = _mapping(given, f"The recipe's {what}", [each.name for each in fields(Source)])
    for each in values.values():
        if not isinstance(each, str) or len(each) > LONGEST_ID:
            raise ComposerError(f"The recipe's {what} must have texts only.")
    if not valid_repo_id(values.get("id", "owner/name")):
        raise ComposerError(f"The recipe's {what} must have a Hub repo id such as owner/name.")
    return Source(**values)


def _mapping(given: object, subject: str, keys: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ComposerError(f"{subject} must be an object of names and values.")
    for name in given:
        if name not in keys:
            raise ComposerError(f"{subject} has an unknown key, {sanitize(name)}; remove it.")
    return dict(given)


def _name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ID:
        raise ComposerError("The recipe names an adapter that cannot be one.")
    return name


def recipe_yaml(recipe: Recipe) -> str:
    """The recipe as YAML, in the order of its keys."""
    return yaml.safe_dump(
        recipe.as_dict(), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )


def parse_recipe(text: str) -> Recipe:
    """The recipe of a YAML text. Raises ComposerError for anything else."""
    return read_recipe(read_stranger_yaml(text, "recipe", LONGEST_YAML))


def load_recipe(path: Path) -> Recipe:
    """The recipe of a YAML file. Raises ComposerError for anything else."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise ComposerError(f"The recipe {sanitize(path.name)} cannot be read: check its name.") from None
    return parse_recipe(text)

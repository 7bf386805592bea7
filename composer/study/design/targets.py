"""Targets: the attributes that a text should have, and the adapters for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from composer.core.catalog_types import Attribute
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message

# The attributes that judges decide; other groups of a catalog are none of the study's business.
ATTRIBUTES = ("sentiment", "topic")
# The module trained on texts that have a sentiment and a topic at once.
MULTI = "multi"
PAIR, TRIPLE = "pair", "triple"
# Labels that say too little to somebody who has only the words.
WORDS = {"sci-tech": "science and technology", "world": "world news"}


@dataclass(frozen=True)
class Target:
    """What a text should be."""

    name: str
    # The attribute's name for one, "pair" for two, "triple" for two and the multi-attribute module.
    kind: str
    # (attribute, label) pairs, all of which a text must have.
    wanted: tuple[tuple[str, str], ...]
    # The adapters composed for it.
    modules: tuple[str, ...]

    def label(self, attribute: str) -> str | None:
        """The wanted label of an attribute; None if the target does not name it."""
        return dict(self.wanted).get(attribute)

    @property
    def words(self) -> str:
        """ "a positive sentiment and a sports topic"."""
        return " and ".join(f"a {WORDS.get(label, label)} {attribute}" for attribute, label in self.wanted)


def all_targets(attributes: Iterable[Attribute]) -> tuple[Target, ...]:
    """Each label alone, each pair across attributes, and each such pair with the multi-attribute module."""
    groups = [group for group in attributes if group.name in ATTRIBUTES]
    wanted = [[(group.name, label) for label in group.members] for group in groups]
    alone = [Target(pair[1], pair[0], (pair,), (pair[1],)) for group in wanted for pair in group]
    pairs = [
        Target(f"{one[1]}+{two[1]}", PAIR, (one, two), (one[1], two[1]))
        for left, right in combinations(wanted, 2)
        for one, two in product(left, right)
    ]
    triples = [Target(f"{pair.name}+{MULTI}", TRIPLE, pair.wanted, (*pair.modules, MULTI)) for pair in pairs]
    return (*alone, *pairs, *triples)


def choose(targets: Sequence[Target], names: Sequence[str] | None) -> tuple[Target, ...]:
    """The targets with these names or of these kinds, in their own order; None: all.

    Raises ComposerError for an unknown name, and when no target is left.
    """
    known = dict.fromkeys(word for target in targets for word in (target.kind, target.name))
    if not known:
        raise ComposerError(
            "This base has nothing to study; give its catalog the attributes "
            f"{' and '.join(ATTRIBUTES)}, with adapters that fit."
        )
    if strange := [name for name in names or () if name not in known]:
        raise ComposerError(unknown_name_message("target", strange[0], known))
    return tuple(t for t in targets if names is None or t.name in names or t.kind in names)

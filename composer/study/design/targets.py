"""Targets: the two attributes that a text should have, and the adapters for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from composer.core.catalog_types import Attribute
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message

# The attributes that judges decide; other groups of a catalog are none of the study's business.
ATTRIBUTES = ("sentiment", "topic")
# Labels that say too little to somebody who has only the words.
WORDS = {"sci-tech": "science and technology", "world": "world news"}


@dataclass(frozen=True)
class Target:
    """What a text should be."""

    name: str
    # (attribute, label) pairs, all of which a text must have.
    wanted: tuple[tuple[str, str], ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The adapters composed for it: one a label, of the same name."""
        return tuple(label for _, label in self.wanted)

    def label(self, attribute: str) -> str:
        """The wanted label of an attribute."""
        return dict(self.wanted)[attribute]

    @property
    def words(self) -> str:
        """ "a positive sentiment and a sports topic"."""
        return " and ".join(f"a {WORDS.get(label, label)} {attribute}" for attribute, label in self.wanted)


def all_targets(attributes: Iterable[Attribute]) -> tuple[Target, ...]:
    """Each pair of labels across the two attributes."""
    groups = [group for group in attributes if group.name in ATTRIBUTES]
    wanted = [[(group.name, label) for label in group.members] for group in groups]
    return tuple(
        Target(f"{one[1]}+{two[1]}", (one, two))
        for left, right in combinations(wanted, 2)
        for one, two in product(left, right)
    )


def choose(targets: Sequence[Target], names: Sequence[str] | None) -> tuple[Target, ...]:
    """The targets of these names, in their own order; None: all.

    Raises ComposerError for an unknown name, and when there is no target.
    """
    known = [target.name for target in targets]
    if not known:
        raise ComposerError(
            "This base has nothing to study; give its catalog the attributes "
            f"{' and '.join(ATTRIBUTES)}, with adapters that fit."
        )
    if strange := [name for name in names or () if name not in known]:
        raise ComposerError(unknown_name_message("target", strange[0], known))
    return tuple(target for target in targets if names is None or target.name in names)

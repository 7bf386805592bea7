"""`like` in adapters.yaml: a base that has the keys of another one, except those that it states itself."""

from __future__ import annotations

from typing import Any

from composer.adapters.strict_yaml import rule
from composer.core.errors import sanitize

LIKE = "like"


def resolve_likes(bases: Any) -> Any:
    """The bases as they are read from the file, each with the keys that it takes from the one it is like.

    `adapters` that a base states are all that it has; each takes what it does not state itself from the
    adapter of the same name. Raises the error of a rule for an unknown name and for a circle. Whatever is no
    mapping stays as it is: the schema reports it.
    """
    if not isinstance(bases, dict):
        return bases
    return {name: _resolved(name, bases, ()) for name in bases}


def _resolved(name: Any, bases: dict[Any, Any], below: tuple[Any, ...]) -> Any:
    """below: the bases that are like this one, the one that was asked for first."""
    own = bases[name]
    if not isinstance(own, dict) or not isinstance(own.get(LIKE), str):
        return own
    parent = own[LIKE]
    if parent not in bases:
        known = ", ".join(sanitize(each, 40) for each in bases)
        raise rule(f"is no base of this file: choose one of {known}", f"{name}.{LIKE}")
    if parent in (*below, name):
        circle = ", ".join(map(str, (*below, name, parent)))
        raise rule(f"leads back to itself ({sanitize(circle, 80)}): remove one of them", f"{name}.{LIKE}")
    inherited = _resolved(parent, bases, (*below, name))
    if not isinstance(inherited, dict):
        return own
    merged = {**inherited, **own}
    if "adapters" in own:
        merged["adapters"] = _adapters(own["adapters"], inherited.get("adapters"))
    return merged


def _adapters(own: Any, inherited: Any) -> Any:
    if not isinstance(own, dict) or not isinstance(inherited, dict):
        return own

    def merged(name: Any, entry: Any) -> Any:
        other = inherited.get(name)
        return {**other, **entry} if isinstance(other, dict) and isinstance(entry, dict) else entry

    return {name: merged(name, entry) for name, entry in own.items()}

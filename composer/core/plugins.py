"""Objects that other packages offer through their entry points."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


def plugins(group: str, kind: type[T], check: Callable[[T], None] = lambda _: None) -> Iterator[T]:
    """Every object of the type `kind` that an installed package names under the entry points' group.

    check: raises for an object that cannot be used. What does not load, or is refused, is left out with one
    line in the log: another package must not keep this one from starting.
    """
    for entry in entry_points(group=group):
        try:
            found: Any = entry.load()
            if not isinstance(found, kind):
                raise TypeError(f"it is no {kind.__module__}.{kind.__name__}")
            check(found)
        except Exception as fault:
            log.warning("%s of another package (%s) is left out: %s", entry.name, group, fault)
        else:
            yield found

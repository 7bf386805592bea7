"""All methods by name: those of this project, and those of other packages."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points

from composer.core.composition import Composition
from composer.core.parameters import parameters_of
from composer.methods.base import Method

log = logging.getLogger(__name__)

# Other packages name a Method under it in their entry points.
GROUP = "composer.methods"


class MethodRegistry(Mapping[str, Method]):
    """A read-only mapping. Other packages are looked up when it is first used."""

    def __init__(self, own: Iterable[Method]):
        self._own = {method.name: method for method in own}

    @cached_property
    def _all(self) -> dict[str, Method]:
        found = dict(self._own)
        for entry in entry_points(group=GROUP):
            try:
                method = _checked(entry.load(), found)
            except Exception as fault:  # another package's code; the other methods must stay usable
                log.warning("the method %s of another package is left out: %s", entry.name, fault)
            else:
                found[method.name] = method
        return found

    def __getitem__(self, name: str) -> Method:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _checked(method: object, known: Mapping[str, Method]) -> Method:
    """Raises ValueError for what is no usable method."""
    if not isinstance(method, Method):
        raise ValueError("it is no composer.methods.Method")
    if method.name in known:
        raise ValueError(f"there is already a method called {method.name}")
    if strange := set(method.parameters) - set(parameters_of(Composition)):
        raise ValueError(f"Composition has no {', '.join(sorted(strange))}")
    return method

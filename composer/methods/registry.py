"""All methods by name: those of this project, and those of other packages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from composer.core.composition import Composition
from composer.core.parameters import parameters_of
from composer.core.plugins import plugins
from composer.methods.base import Method

# Other packages name a Method under it in their entry points.
GROUP = "composer.methods"


class MethodRegistry(Mapping[str, Method]):
    """A read-only mapping. Other packages are looked up when it is first used."""

    def __init__(self, own: Iterable[Method]):
        self._own = {method.name: method for method in own}

    @cached_property
    def _all(self) -> dict[str, Method]:
        found = dict(self._own)

        def check(method: Method) -> None:
            if method.name in found:
                raise ValueError(f"there is already a method called {method.name}")
            if strange := set(method.parameters) - set(parameters_of(Composition)):
                raise ValueError(f"Composition has no {', '.join(sorted(strange))}")

        for method in plugins(GROUP, Method, check):
            found[method.name] = method
        return found

    def __getitem__(self, name: str) -> Method:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

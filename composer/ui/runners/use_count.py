"""How many calls a runner is working on, so that a base is not unloaded in the middle of one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import isgeneratorfunction
from threading import Lock
from typing import Any

from composer.core.errors import ComposerError


class UseCount:
    """A context manager that counts those who are inside. Thread-safe."""

    def __init__(self) -> None:
        self._lock, self._inside, self._closed = Lock(), 0, False

    @property
    def idle(self) -> bool:
        """Whether nobody is inside."""
        with self._lock:
            return self._inside == 0

    def close_if_idle(self) -> bool:
        """Let nobody in from now on, unless somebody is inside. Returns whether it is closed."""
        with self._lock:
            self._closed = self._closed or self._inside == 0
            return self._closed

    def __enter__(self) -> None:
        """Raises ComposerError once it is closed."""
        with self._lock:
            if self._closed:
                raise ComposerError("This base was unloaded to make room for another; reload the page.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1


def counted(method: Callable[..., Any]) -> Callable[..., Any]:
    """A runner's method that is inside the runner's `use` while it runs, a generator until it is closed."""
    if isgeneratorfunction(method):

        @wraps(method)
        def generate(self: Any, *given: Any, **named: Any) -> Any:
            with self.use:
                return (yield from method(self, *given, **named))

        return generate

    @wraps(method)
    def call(self: Any, *given: Any, **named: Any) -> Any:
        with self.use:
            return method(self, *given, **named)

    return call

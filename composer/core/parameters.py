"""Parameters of a composition and of sampling, each declared once.

The command line, the API, the page and the docs are made from the declarations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from composer.core.errors import ComposerError, check_int, check_number


@dataclass(frozen=True)
class Parameter:
    """One parameter: its type and bounds, and its words."""

    default: object
    # On the page.
    label: str
    # On the command line and in the docs, in lower case and without a full stop.
    help: str
    kind: type = float
    low: float = -math.inf
    high: float = math.inf
    # What it may be, and each value's label on the page.
    choices: Mapping[str, str] | None = None
    # None is allowed, and stands for the method's usual value.
    optional: bool = False
    # Folded away on the page: the default suits nearly everybody.
    advanced: bool = False
    # The page's slider, where it is narrower than the bounds.
    page_high: float | None = None
    step: float = 0.05
    # On the page, below the control.
    info: str | None = None
    # The command line's option, where it is not the field's name. "--no-..." switches a flag off.
    option: str | None = None
    metavar: str | None = None
    # The subject of messages about it, where it is not the field's name.
    subject: str | None = None

    def check(self, name: str, value: object) -> object:
        """The value as its type. Raises ComposerError that names the parameter and what it may be."""
        subject = self.subject or name
        if value is None and self.optional:
            return None
        if self.choices is not None:
            if not isinstance(value, str) or value not in self.choices:
                raise ComposerError(f"{subject} must be {' or '.join(map(repr, self.choices))}.")
            return value
        if self.kind is int:
            return check_int(subject, value, int(self.low), int(self.high))
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ComposerError(f"{subject} must be true or false.")
            return value
        return check_number(subject, value, self.low, self.high)


def parameter(default: Any, label: str, help: str, **more: Any) -> Any:
    """A dataclass field that is a Parameter."""
    return field(default=default, metadata={"parameter": Parameter(default, label, help, **more)})


def parameters_of(values: type) -> dict[str, Parameter]:
    """The declared parameters of a dataclass, by field name, in its order."""
    return {each.name: each.metadata["parameter"] for each in fields(values) if "parameter" in each.metadata}


def check_parameters(values: Any) -> None:
    """Check a frozen dataclass's parameters in its __post_init__, and put the checked values in."""
    for name, declared in parameters_of(type(values)).items():
        object.__setattr__(values, name, declared.check(name, getattr(values, name)))

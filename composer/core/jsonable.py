"""Answers as JSON can say them: arrays as lists, numbers that are not finite as null."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def to_jsonable(value: object) -> object:
    """What JSON can say: arrays and tuples as lists, and null for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_jsonable(value.tolist())
    if isinstance(value, tuple | list):
        return [to_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

"""The header of a safetensors file: every tensor's type and shape, from the first bytes of the file.

The file is read and not mapped: truncating a mapped file would crash the process.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from composer.adapters.fit.missing import WEIGHTS
from composer.core.errors import ComposerError

# An adapter of ten thousand tensors has a header of a megabyte and a half.
HEADER_LIMIT = 25_000_000
_BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64}
_BITS |= {kind + size: int(size) for kind in ("U", "I") for size in ("8", "16", "32", "64")}
_BITS |= {"F16": 16, "BF16": 16, "F32": 32, "F64": 64}
_BITS |= {f"F8_{kind}": 8 for kind in ("E4M3", "E5M2", "E8M0", "E4M3FNUZ", "E5M2FNUZ")}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the safetensors header describes it."""

    # "F32", "BF16", ...
    dtype: str
    shape: tuple[int, ...]


def read_header(name: str, path: Path) -> Mapping[str, TensorInfo]:
    """The header of a file that is whole. Raises ComposerError for any other."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            return parse_header(start + file.read(min(_length(start), HEADER_LIMIT)), size)
    except (OSError, ValueError, RecursionError):
        raise ComposerError(
            f"The {WEIGHTS} of {name} is damaged or cut short: copy or download it again."
        ) from None


def parse_header(data: bytes, size: int) -> Mapping[str, TensorInfo]:
    """Parses the header at the start of `data`, the first bytes of a file of `size`.

    Raises ValueError or RecursionError for a header that does not describe the whole file exactly.
    """
    end = 8 + _length(data)
    if end > min(size, len(data), 8 + HEADER_LIMIT):
        raise ValueError("the header ends after the file does")
    document = json.loads(data[8:end], object_pairs_hook=_once)
    if not isinstance(document, dict):
        raise ValueError("the header is no mapping")
    entries = {key: value for key, value in document.items() if key != "__metadata__"}
    found, place = {}, 0
    for key, value in sorted(entries.items(), key=lambda item: _offsets(item[1])):
        begin, stop = _offsets(value)
        dtype, shape = value.get("dtype"), value.get("shape")
        if not isinstance(dtype, str) or not isinstance(shape, list) or not all(map(_count, shape)):
            raise ValueError("a tensor has no type or shape")
        bits = math.prod(shape) * _BITS[dtype] if dtype in _BITS else 8 * (stop - begin)
        if begin != place or bits != 8 * (stop - begin):
            raise ValueError("the tensors do not lie one after another")
        found[key], place = TensorInfo(dtype, tuple(shape)), stop
    if place != size - end:
        raise ValueError("the tensors and the file do not end together")
    return found


def _length(start: bytes) -> int:
    if len(start) < 8:
        raise ValueError("there is no header")
    return int.from_bytes(start[:8], "little")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _offsets(value: object) -> tuple[int, int]:
    offsets = value.get("data_offsets") if isinstance(value, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_count, offsets)):
        raise ValueError("a tensor has no place")
    return offsets[0], offsets[1]


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

"""The header of a GGUF file: its metadata and where its tensors lie, read within bounds.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing is allocated by a number of the file that
the file itself is not long enough for, so that any file is read or refused in seconds.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGUF_MAGIC, GGMLQuantizationType, GGUFValueType

VERSIONS = (2, 3)
# Real files have some forty keys, a few hundred tensors and, all lists together, a million entries.
KEYS, TENSORS, ENTRIES = 4096, 65_536, 2**22
# In bytes. The longest text of a real file is its chat template.
LONGEST_NAME, LONGEST_TEXT = 255, 2**20
# Lists of so many numbers are kept, such as a number for each layer; of longer ones only the length.
KEPT = 4096
DIMENSIONS, LARGEST = 4, 2**40
NAME = re.compile(r"[A-Za-z0-9][\w.\-/]*", re.ASCII)

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.FLOAT64: "d",
    GGUFValueType.BOOL: "?",
}

Scalar = int | float | bool | str


class GgufFault(ValueError):
    """What is wrong with a file, as the end of a sentence: "it is cut short"."""


@dataclass(frozen=True)
class GgufArray:
    """A list of the metadata."""

    kind: GGUFValueType
    length: int
    # The numbers of a short list; none of any other.
    values: tuple[int | float | bool, ...] = ()


@dataclass(frozen=True)
class GgufTensor:
    """A tensor: its type, its shape with the innermost dimension first, and its bytes in the file."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class GgufHeader:
    """What a file says of itself."""

    fields: Mapping[str, Scalar | GgufArray]
    tensors: Mapping[str, GgufTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of a file that is whole. Raises GgufFault for any other, and OSError."""
    with path.open("rb") as file:
        return _Reader(file, os.fstat(file.fileno()).st_size).header()


class _Reader:
    """Reads values one after another."""

    def __init__(self, file: IO[bytes], size: int):
        self._file, self._size, self._place = file, size, 0
        self._entries = ENTRIES

    def header(self) -> GgufHeader:
        if self._size < 4 or self._number("I") != GGUF_MAGIC:
            raise GgufFault("it is no GGUF file")
        version = self._number("I")
        if version not in VERSIONS:
            raise GgufFault(f"its version is {version}, and {' and '.join(map(str, VERSIONS))} are read")
        tensors, keys = self._number("Q"), self._number("Q")
        if tensors > TENSORS or keys > KEYS:
            raise GgufFault("it says that it has more tensors or keys than any base")
        fields: dict[str, Scalar | GgufArray] = {}
        for _ in range(keys):
            self._put(fields, self._name(), self._value(self._kind()))
        described: dict[str, tuple[GGMLQuantizationType, tuple[int, ...], int]] = {}
        for _ in range(tensors):
            self._put(described, self._name(), self._tensor())
        return GgufHeader(fields, self._placed(described, fields))

    def _placed(
        self,
        described: Mapping[str, tuple[GGMLQuantizationType, tuple[int, ...], int]],
        fields: Mapping[str, Scalar | GgufArray],
    ) -> dict[str, GgufTensor]:
        align = fields.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if not is_count(align) or not 1 <= align <= 2**16 or align & (align - 1):
            raise GgufFault("its alignment is no small power of two")
        start = -(-self._place // align) * align
        placed, end = {}, start
        for name, (kind, shape, offset) in sorted(described.items(), key=lambda item: item[1][2]):
            begin = start + offset
            if offset % align or begin < end:
                raise GgufFault("its tensors overlap or lie askew")
            block, size = GGML_QUANT_SIZES[kind]
            end = begin + math.prod(shape) // block * size
            if end > self._size:
                raise GgufFault("a tensor lies outside of it: it is cut short")
            placed[name] = GgufTensor(kind, shape, begin, end)
        return placed

    def _tensor(self) -> tuple[GGMLQuantizationType, tuple[int, ...], int]:
        dimensions = self._number("I")
        if not 1 <= dimensions <= DIMENSIONS:
            raise GgufFault(f"a tensor does not have 1 to {DIMENSIONS} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        if not all(shape) or math.prod(shape) > LARGEST:
            raise GgufFault("the shape of a tensor is empty or too large")
        number, offset = self._number("I"), self._number("Q")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise GgufFault(f"a tensor is of the unknown type {number}") from None
        if shape[0] % GGML_QUANT_SIZES[kind][0]:
            raise GgufFault("the shape of a tensor does not fit its type")
        return kind, shape, offset

    def _value(self, kind: GGUFValueType) -> Scalar | GgufArray:
        if kind is GGUFValueType.STRING:
            return self._text(LONGEST_TEXT)
        if kind is GGUFValueType.ARRAY:
            return self._array()
        if kind is GGUFValueType.BOOL and self._number("B") > 1:
            raise GgufFault("a truth value is neither true nor false")
        if kind is GGUFValueType.BOOL:
            return bool(self._last)
        value = self._number(_SCALARS[kind])
        if not math.isfinite(value):
            raise GgufFault("a number of its metadata is not finite")
        return value

    def _array(self) -> GgufArray:
        kind, length = self._kind(), self._number("Q")
        if kind is GGUFValueType.ARRAY:
            raise GgufFault("its metadata has lists of lists")
        self._entries -= length
        if self._entries < 0:
            raise GgufFault("its metadata has more entries than any base")
        if kind is GGUFValueType.STRING:
            for _ in range(length):
                self._skip(self._number("Q"))
            return GgufArray(kind, length)
        code = "B" if kind is GGUFValueType.BOOL else _SCALARS[kind]
        if length > KEPT:
            self._skip(length * struct.calcsize(code))
            return GgufArray(kind, length)
        return GgufArray(
            kind, length, struct.unpack(f"<{length}{code}", self._take(length * struct.calcsize(code)))
        )

    def _kind(self) -> GGUFValueType:
        number = self._number("I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise GgufFault(f"its metadata has a value of the unknown type {number}") from None

    def _name(self) -> str:
        name = self._text(LONGEST_NAME)
        if not NAME.fullmatch(name) or ".." in name:
            raise GgufFault("a name in it has other characters than letters, digits, '.', '_' and '-'")
        return name

    def _text(self, limit: int) -> str:
        length = self._number("Q")
        if length > limit:
            raise GgufFault("a text in it is longer than any base's")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise GgufFault("a text in it is not UTF-8") from None

    def _number(self, code: str) -> int:
        self._last = struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))[0]
        return self._last

    def _take(self, count: int) -> bytes:
        self._advance(count)
        data = self._file.read(count)
        if len(data) < count:
            raise GgufFault("it is cut short")
        return data

    def _skip(self, count: int) -> None:
        self._advance(count)
        self._file.seek(count, os.SEEK_CUR)

    def _advance(self, count: int) -> None:
        self._place += count
        if self._place > self._size:
            raise GgufFault("it is cut short")

    def _put(self, found: dict, name: str, value: object) -> None:
        if name in found:
            raise GgufFault("a name stands in it twice")
        found[name] = value


def is_count(value: object) -> bool:
    """Whether a value is a whole number from 0 on, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

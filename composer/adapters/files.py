"""What an adapter's two files say, read from disk without its weights: no network, no torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from composer.adapters.fit.missing import CONFIG, WEIGHTS, missing_files
from composer.adapters.header import TensorInfo, read_header
from composer.core.errors import ComposerError

__all__ = ["CONFIG", "WEIGHTS", "AdapterFiles", "TensorInfo", "local_folder", "read_folder", "weights_limit"]

# A real config is 1-2 kB. Larger ones only cost time, and some of their text is used as a regex.
CONFIG_LIMIT = 256_000
LIMIT_VARIABLE = "COMPOSER_MAX_ADAPTER_MB"
LIMIT_MB = 300
# Files below a folder that are looked through for the adapter that it lacks itself.
LOOKED_THROUGH = 2000


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter before its weights are loaded."""

    name: str
    source: str
    # The commit for a Hub repo, None for a local folder.
    revision: str | None
    # adapter_config.json.
    config: Mapping[str, object]
    # Tensor name -> TensorInfo.
    header: Mapping[str, TensorInfo]
    # Size of the weights file.
    bytes: int
    # Where both files lie, or None while the weights are still on the Hub.
    folder: Path | None


def weights_limit(megabytes: float | None = None, env: Mapping[str, str] = os.environ) -> int:
    """Bytes that the weights of an adapter may have. megabytes: None is what COMPOSER_MAX_ADAPTER_MB says.
    Raises ComposerError for a setting that is no number."""
    said = (env.get(LIMIT_VARIABLE) or LIMIT_MB) if megabytes is None else megabytes
    try:
        number = float(said)
    except (TypeError, ValueError):
        number = math.nan
    if not 1 <= number <= 1_000_000:
        raise ComposerError(
            f"{LIMIT_VARIABLE} must be a number between 1 and 1000000; got {str(said)[:40]!r}."
        )
    return int(number * 1e6)


def local_folder(source: str) -> Path | None:
    """The folder that a text names, if there is one: `~` is the home folder, and a path may be pasted as
    another system or a shell writes it."""
    bare = source.strip().strip("\"'")
    for text in (source, bare, bare.replace("\\ ", " "), bare.replace("\\", "/")):
        # os.path, unlike Path, calls a name that no disk could hold no folder.
        path = os.path.expanduser(text)
        if os.path.isdir(path):
            return Path(path)
    return None


def check_size(name: str, size: int | None, limit: float) -> int:
    """`size` if it is known and within `limit` bytes, else a ComposerError."""
    if size is None:
        raise ComposerError(f"The size of {name}'s weights is not known, so they are not loaded: try later.")
    if size > limit:
        raise ComposerError(
            f"{name} weighs {size / 1e6:,.0f} MB and the limit is {limit / 1e6:,.0f} MB: "
            f"choose a smaller adapter or set {LIMIT_VARIABLE} to {math.ceil(size / 1e6)} or more."
        )
    return size


def read_config(name: str, path: Path) -> Mapping[str, object]:
    """adapter_config.json as a mapping of unchecked values. Raises ComposerError if it is not one."""
    fault = ComposerError(
        f"The {CONFIG} of {name} is not a readable adapter configuration: save the adapter again with PEFT."
    )
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_LIMIT + 1)
        if len(data) > CONFIG_LIMIT:
            raise fault
        config = json.loads(data.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise fault from None
    if not isinstance(config, dict):
        raise fault
    return config


def read_folder(
    folder: Path, name: str, source: str, revision: str | None = None, limit_bytes: float = math.inf
) -> AdapterFiles:
    """Reads the config and the header of an adapter folder. Raises ComposerError."""
    config, weights = folder / CONFIG, folder / WEIGHTS
    try:
        # is_file() is False for pipes and devices too, which would block a read.
        found = {path.name for path in folder.iterdir() if path.is_file()}
    except OSError:
        raise ComposerError(f"The folder of {name} cannot be read: check its permissions.") from None
    if not {CONFIG, WEIGHTS} <= found:
        raise ComposerError(missing_files(name, found | _below(folder)))
    try:
        size = check_size(name, weights.stat().st_size, limit_bytes)
    except OSError:
        raise ComposerError(f"The {WEIGHTS} of {name} cannot be read: check its permissions.") from None
    return AdapterFiles(
        name, source, revision, read_config(name, config), read_header(name, weights), size, folder
    )


def _below(folder: Path) -> set[str]:
    """Files in the folders below, as paths from `folder`; not all of them where there are very many."""
    found: set[str] = set()
    for place, folders, files in os.walk(folder):
        own = Path(place).relative_to(folder)
        found |= {(own / file).as_posix() for file in files} if own.parts else set()
        if len(found) > LOOKED_THROUGH:
            break
        folders[:] = sorted(folders) if len(own.parts) < 3 else []
    return found

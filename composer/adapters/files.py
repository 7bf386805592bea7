"""What an adapter's two files say, read from disk without its weights: no network, no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from composer.spec import ComposerError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# A real config is 1-2 kB. Larger ones only cost time, and some of their text is used as a regex.
CONFIG_LIMIT = 256_000
WEIGHTS_LIMIT = 300_000_000


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the safetensors header describes it. dtype: "F32", "BF16", ..."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter before its weights are loaded.

    config: adapter_config.json. header: tensor name -> TensorInfo. bytes: size of the weights file.
    revision: the commit for a Hub repo, None for a local folder. folder: where both files lie, or
    None while the weights are still on the Hub.
    """

    name: str
    source: str
    revision: str | None
    config: Mapping[str, object]
    header: Mapping[str, TensorInfo]
    bytes: int
    folder: Path | None


def check_size(name: str, size: int | None, limit: int) -> int:
    """`size` if it is known and within `limit` bytes, else a ComposerError."""
    if size is None:
        raise ComposerError(f"The size of {name}'s weights is not known, so they are not loaded: try later.")
    if size > limit:
        raise ComposerError(
            f"{name} weighs {size / 1e6:,.0f} MB and the limit is {limit / 1e6:,.0f} MB: "
            "choose a smaller adapter or raise the limit in the settings."
        )
    return size


def read_config(name: str, path: Path) -> Mapping[str, object]:
    """adapter_config.json as a mapping of unchecked values. Raises ComposerError if it is not one."""
    fault = ComposerError(
        f"The {CONFIG} of {name} is not a readable adapter configuration: save the adapter again with PEFT."
    )
    try:
        if path.stat().st_size > CONFIG_LIMIT:
            raise fault
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise fault from None
    if not isinstance(config, dict):
        raise fault
    return config


def read_header(name: str, path: Path) -> Mapping[str, TensorInfo]:
    """Every tensor's type and shape. The safetensors library checks that the file is whole."""
    try:
        with safe_open(path, "numpy") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            return {key: TensorInfo(s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()}
    except (SafetensorError, OSError):
        raise ComposerError(
            f"The {WEIGHTS} of {name} is damaged or cut short: copy or download it again."
        ) from None


def read_folder(
    folder: Path, name: str, source: str, revision: str | None = None, limit_bytes: int = WEIGHTS_LIMIT
) -> AdapterFiles:
    """Reads the config and the header of an adapter folder. Raises ComposerError."""
    config, weights = folder / CONFIG, folder / WEIGHTS
    try:
        # is_file() is False for pipes and devices too, which would block a read.
        found = {path.name for path in folder.iterdir() if path.is_file()}
    except OSError:
        raise ComposerError(f"The folder of {name} cannot be read: check its permissions.") from None
    missing = missing_files(name, found)
    if missing:
        raise ComposerError(missing)
    size = check_size(name, weights.stat().st_size, limit_bytes)
    return AdapterFiles(
        name, source, revision, read_config(name, config), read_header(name, weights), size, folder
    )


def missing_files(name: str, found: set[str]) -> str | None:
    """The sentence about what a folder or repo with these files lacks; None if it has both."""
    if CONFIG not in found:
        return f"{name} has no {CONFIG}, so it is not a PEFT adapter: choose a folder or repository with one."
    if WEIGHTS in found:
        return None
    if any(re.fullmatch(r"adapter_model.*\.(bin|pt|pth|pkl|ckpt)", file) for file in found):
        return (
            f"{name} keeps its weights in a pickle file, which could run code and is never opened: "
            "ask its author for safetensors or convert it on a machine you can lose."
        )
    if any(re.fullmatch(r"adapter_model.*\.safetensors(\.index\.json)?", file) for file in found):
        return f"The weights of {name} are split over several files: save them as one {WEIGHTS}."
    return f"{name} has no {WEIGHTS}: choose an adapter saved by PEFT with safetensors."

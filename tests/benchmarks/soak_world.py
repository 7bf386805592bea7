"""A world for the soak that is quick: two tiny random bases, three adapters on each, and ten on the Hub."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.soak.plan import World
from composer.adapters.catalog import load_catalog
from tests.tools import tiny

FAMILY = "llama"
NAMES = ("plain", "rslora", "patterned")
ON_THE_HUB = 10


def tiny_world(folder: Path) -> World:
    """The world in a folder. The bases differ in their weights alone."""
    adapters = tiny.three_unlike(folder, FAMILY)
    bases = {}
    for seed, name in enumerate(("first", "second")):
        model, tokenizer = tiny.model(FAMILY, seed), tiny.tokenizer()
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        bases[name] = {
            "id": f"tiny/{name}",
            "label": f"Tiny {name}",
            "folder": str(folder / name),
            "verified": True,
            "attributes": {"mood": {"label": "Mood", "poles": ["plain", "rslora"]}},
            "adapters": {each: {"source": str(adapters[each])} for each in NAMES},
        }
    file = folder / "catalog.yaml"
    file.write_text(json.dumps({"default": "first", "bases": bases}), "utf-8")
    hub = {
        f"soak/hub-{seed:02}": tiny.adapter(folder / f"hub-{seed:02}", FAMILY, 10 + seed, r=2 + seed % 3)
        for seed in range(1, ON_THE_HUB + 1)
    }
    return World(load_catalog(file), file, ("first", "second"), hub)

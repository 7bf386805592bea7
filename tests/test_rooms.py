"""The rooms of the project and the doors between them: reads the sources and fails when a room leaks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOW = {"spec", "faults", "adapters", "model", "methods", "insight"}
# Which rooms each room may import from. Imports point one way: nothing here is in the set of what it imports.
DOORS = {
    "spec": set(),
    "faults": {"spec"},
    "streams": set(),
    "arguments": set(),
    "adapters": {"spec"},
    "model": {"spec", "faults", "adapters"},
    "methods": {"spec", "adapters", "model"},
    "insight": {"spec", "adapters", "model"},
    "naming": set(),
    "shelf": LOW | {"naming"},
    "stock": LOW | {"naming", "shelf"},
    "making": LOW,
    "casting": LOW | {"naming", "shelf", "stock", "making"},
    "probing": LOW | {"shelf", "casting"},
    "gating": LOW | {"shelf", "casting", "probing"},
    "run": LOW | {"shelf"},
    "engine": LOW | {"naming", "shelf", "stock", "making", "casting", "probing", "gating", "run"},
    "scheduler": LOW | {"shelf", "run", "engine"},
    "plain": set(),
    "control": set(),
    "threads": set(),
    "explain": LOW | {"casting", "engine", "plain"},
    "options": {"spec", "faults", "methods"},
    "training": LOW | {"naming", "options", "control"},
    "study": LOW | {"naming", "engine", "run", "stock", "casting", "options", "plain", "control", "training"},
    "bench": LOW | {"engine", "options", "scheduler", "threads"},
    "ui": LOW | {"arguments", "naming", "casting", "engine", "scheduler", "threads"},
    "cli": LOW
    | {"arguments", "streams", "engine", "explain", "options", "plain", "study", "training", "bench"},
    "__main__": {"streams", "cli"},
    "__init__": {"spec", "threads", "engine"},
    "app": {"spec", "faults", "streams", "engine", "threads", "ui"},
}
HUB = ("composer/adapters/hub.py", "composer/adapters/faults.py")
# Outside packages that only these files or folders may import.
ONLY = {
    "gradio": ("composer/ui/", "app.py"),
    "spaces": ("composer/ui/", "app.py"),
    "plotly": ("composer/ui/", "composer/study/figures.py"),
    "ray": ("composer/study/ray_engine.py",),
    "yaml": ("composer/adapters/", "composer/training/"),
    "datasets": ("composer/training/",),
    "sklearn": ("composer/training/", "composer/study/"),
    "torch.nn": ("composer/model/",),
    **dict.fromkeys(("huggingface_hub", "httpx", "httpx2", "requests", "aiohttp", "urllib.request"), HUB),
    **dict.fromkeys(("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"), ()),
}
OUTSIDE = "/".join(("..", "shared"))
LONGEST = 400


def room_of(path: str) -> str:
    """ "composer/ui/live.py" -> "ui", "composer/spec.py" -> "spec", "app.py" -> "app"."""
    parts = path.removesuffix(".py").split("/")
    return parts[1] if parts[0] == "composer" else parts[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that a source imports: modules, and what it takes from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"  # torch.nn needs no import of its own


def faults(path: str, source: str) -> set[str]:
    """What is wrong with one source, each as a short sentence; empty when it keeps to its room."""
    tree, found = ast.parse(source), set()
    for name in imported(tree):
        if name.startswith("."):
            found.add("imports relatively")
        found |= _door_faults(path, name) | _package_faults(path, name)
    found |= {fault for node in ast.walk(tree) for fault in _node_faults(path, node)}
    if len(source.splitlines()) > LONGEST:
        found.add(f"is longer than {LONGEST} lines")
    return found


def _door_faults(path: str, name: str) -> set[str]:
    top, _, rest = name.partition(".")
    target = rest.partition(".")[0]
    if target in ("Composition", "Sampling"):
        target = "spec"
    target = "engine" if target == "Engine" else target
    room = room_of(path)
    if top != "composer" or target == room or target not in DOORS or room not in DOORS:
        return set()
    return set() if target in DOORS[room] else {f"{room} imports {target}"}


def _package_faults(path: str, name: str) -> set[str]:
    if path.startswith("tests/"):
        return set()
    return {
        f"imports {package}"
        for package, places in ONLY.items()
        if f"{name}.".startswith(f"{package}.") and not any(path.startswith(place) for place in places)
    }


def _node_faults(path: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
        yield "sets trust_remote_code"
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and OUTSIDE in node.value:
        yield "reads outside the project"
    if not isinstance(node, ast.Call):
        return
    called = ast.unparse(node.func)
    if called in ("eval", "exec", "torch.load"):
        yield f"calls {called}"
    if path.startswith("tests/") and called.rpartition(".")[2] in ("sleep", "wait_for_timeout"):
        yield "sleeps"


SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for place in ("composer", "tests", "bench")
    for path in (ROOT / place).rglob("*.py")
)


@pytest.mark.parametrize("path", ["app.py", *SOURCES])
def test_every_source_keeps_to_its_room(path):
    assert faults(path, (ROOT / path).read_text("utf-8")) == set()


def test_every_room_has_its_doors():
    rooms = {room_of(path) for path in SOURCES if path.startswith("composer/")}
    assert rooms <= set(DOORS)


def test_doors_lead_one_way():
    order = list(DOORS)
    assert all(
        order.index(target) < order.index(room) for room, targets in DOORS.items() for target in targets
    )


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("composer/spec.py", "from composer.engine import Engine", "spec imports engine"),
        ("composer/adapters/hub.py", "import composer.ui.live", "adapters imports ui"),
        ("composer/model/inject.py", "from composer import methods", "model imports methods"),
        ("composer/methods/adaptive.py", "from composer import Engine", "methods imports engine"),
        ("composer/engine.py", "def late():\n    from composer.ui import live", "engine imports ui"),
        ("composer/ui/page.py", "from composer.study.judge import Judge", "ui imports study"),
        ("composer/ui/page.py", "from . import live", "imports relatively"),
        ("composer/study/report.py", "import plotly.graph_objects as go", "imports plotly"),
        ("composer/engine.py", "import gradio as gr", "imports gradio"),
        ("composer/engine.py", "from yaml import safe_load", "imports yaml"),
        ("composer/engine.py", "from torch import nn", "imports torch.nn"),
        ("composer/engine.py", "import torch\nclass Mine(torch.nn.Module): ...", "imports torch.nn"),
        (
            "composer/model/base.py",
            "from huggingface_hub import snapshot_download",
            "imports huggingface_hub",
        ),
        ("composer/adapters/files.py", "from urllib import request", "imports urllib.request"),
        ("composer/adapters/hub.py", "import pickle", "imports pickle"),
        ("composer/adapters/bank.py", "torch.load('x')", "calls torch.load"),
        ("composer/model/base.py", "load('x', trust_remote_code=True)", "sets trust_remote_code"),
        ("composer/training/data.py", f"open('{OUTSIDE}/data')", "reads outside the project"),
        ("composer/engine.py", "eval('1')", "calls eval"),
        ("tests/test_x.py", "import time\ntime.sleep(1)", "sleeps"),
        ("tests/browser/test_x.py", "page.wait_for_timeout(9)", "sleeps"),
        ("composer/engine.py", "x = 1\n" * (LONGEST + 1), f"is longer than {LONGEST} lines"),
    ],
)
def test_a_planted_leak_is_caught(path, source, fault):
    assert faults(path, source) == {fault}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("composer/adapters/hub.py", "from huggingface_hub import hf_hub_download"),
        ("composer/model/inject.py", "from torch import nn"),
        ("composer/ui/page.py", "import gradio as gr\nfrom composer import Composition, Engine"),
        ("composer/engine.py", "import torch\nx = torch.zeros(1)"),
    ],
)
def test_what_belongs_there_is_let_in(path, source):
    assert faults(path, source) == set()

"""The rooms of the project and the doors between them: reads the sources and fails when a room leaks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOW = {"core", "adapters", "model", "methods"}
# Which rooms each room may import from. Imports point one way: a room comes after all that it imports.
DOORS = {
    "core": set(),
    "adapters": {"core"},
    "model": {"core", "adapters"},
    "methods": {"core", "adapters", "model"},
    "engine": LOW,
    "analysis": LOW | {"engine"},
    "training": LOW,
    "evaluation": LOW | {"engine", "training"},
    "study": LOW | {"engine", "analysis", "training", "evaluation"},
    "benchmarks": LOW | {"engine", "analysis", "evaluation"},
    "ui": LOW | {"engine", "analysis", "evaluation"},
    "cli": LOW | {"engine", "analysis", "training", "evaluation", "study", "benchmarks", "ui"},
    "__main__": {"core", "cli"},
    "__init__": {"core", "engine"},
    "app": {"core", "engine", "ui"},
}
HUB = ("composer/adapters/hub/",)
# Outside packages that only these files or folders may import.
ONLY = {
    "gradio": ("composer/ui/", "app.py"),
    "spaces": ("composer/ui/", "app.py"),
    "plotly": ("composer/ui/", "composer/study/domains/figures.py"),
    "ray": ("composer/study/ray_worker.py", "composer/ui/replicas/"),
    "yaml": ("composer/adapters/", "composer/training/"),
    "datasets": ("composer/training/",),
    "sklearn": ("composer/training/", "composer/evaluation/", "composer/study/"),
    "torch.nn": ("composer/model/",),
    **dict.fromkeys(("huggingface_hub", "httpx", "httpx2", "requests", "urllib.request"), HUB),
    "aiohttp": (*HUB, "composer/ui/replicas/"),
    **dict.fromkeys(("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"), ()),
}
OUTSIDE = "/".join(("..", "shared"))
# Modules in one folder, its __init__ not counted.
MOST_MODULES = 15


def room_of(path: str) -> str:
    """ "composer/ui/page.py" -> "ui", "benchmarks/run.py" -> "benchmarks", "app.py" -> "app"."""
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
    return found


def _door_faults(path: str, name: str) -> set[str]:
    top, _, rest = name.partition(".")
    target = "benchmarks" if top == "benchmarks" else rest.partition(".")[0]
    if target in ("Composition", "Sampling"):
        target = "core"
    target = "engine" if target == "Engine" else target
    room = room_of(path)
    if top not in ("composer", "benchmarks") or target == room or target not in DOORS or room not in DOORS:
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
    trusts = isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
    if trusts and ast.unparse(node.value) != "False":
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
    for place in ("composer", "benchmarks", "tests")
    for path in (ROOT / place).rglob("*.py")
)


@pytest.mark.parametrize("path", ["app.py", *SOURCES])
def test_every_source_keeps_to_its_room(path):
    assert faults(path, (ROOT / path).read_text("utf-8")) == set()


def test_every_room_has_its_doors():
    rooms = {room_of(path) for path in SOURCES if path.startswith("composer/")}
    assert rooms | {"benchmarks", "app"} == set(DOORS)


def test_no_module_lies_outside_a_room():
    assert {path.name for path in (ROOT / "composer").glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize(
    "folder", sorted({path.rpartition("/")[0] for path in SOURCES if path.startswith("composer/")})
)
def test_a_folder_is_small_enough_to_read(folder):
    assert len([path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]) <= MOST_MODULES


def test_doors_lead_one_way():
    order = list(DOORS)
    assert all(
        order.index(target) < order.index(room) for room, targets in DOORS.items() for target in targets
    )


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("composer/core/names.py", "from composer.engine.engine import Engine", "core imports engine"),
        (
            "composer/adapters/hub/adapters.py",
            "import composer.ui.components.contribution_map",
            "adapters imports ui",
        ),
        ("composer/model/gated_model.py", "from composer import methods", "model imports methods"),
        ("composer/methods/adaptive.py", "from composer import Engine", "methods imports engine"),
        ("composer/engine/engine.py", "def late():\n    from composer.ui import page", "engine imports ui"),
        (
            "composer/ui/page.py",
            "from composer.study.staged import run_stage",
            "ui imports study",
        ),
        ("composer/ui/page.py", "from . import live", "imports relatively"),
        ("composer/study/reporting/claims_report.py", "import plotly.graph_objects as go", "imports plotly"),
        ("composer/engine/engine.py", "import gradio as gr", "imports gradio"),
        ("composer/engine/engine.py", "from yaml import safe_load", "imports yaml"),
        ("composer/engine/engine.py", "from torch import nn", "imports torch.nn"),
        ("composer/engine/engine.py", "import torch\nclass Mine(torch.nn.Module): ...", "imports torch.nn"),
        (
            "composer/model/loading.py",
            "from huggingface_hub import snapshot_download",
            "imports huggingface_hub",
        ),
        ("composer/adapters/files.py", "from urllib import request", "imports urllib.request"),
        ("composer/adapters/hub/adapters.py", "import pickle", "imports pickle"),
        ("composer/adapters/bank.py", "torch.load('x')", "calls torch.load"),
        ("composer/model/loading.py", "load('x', trust_remote_code=True)", "sets trust_remote_code"),
        ("composer/training/data.py", f"open('{OUTSIDE}/data')", "reads outside the project"),
        ("composer/engine/engine.py", "eval('1')", "calls eval"),
        ("tests/test_x.py", "import time\ntime.sleep(1)", "sleeps"),
        ("tests/browser/test_x.py", "page.wait_for_timeout(9)", "sleeps"),
        ("composer/ui/page.py", "from benchmarks.plan import Plan", "ui imports benchmarks"),
        ("composer/evaluation/report.py", "from composer.study import joined", "evaluation imports study"),
    ],
)
def test_a_planted_leak_is_caught(path, source, fault):
    assert faults(path, source) == {fault}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("composer/adapters/hub/adapters.py", "from huggingface_hub import hf_hub_download"),
        ("composer/model/gated_model.py", "from torch import nn"),
        ("composer/ui/page.py", "import gradio as gr\nfrom composer import Composition, Engine"),
        ("composer/engine/engine.py", "import torch\nx = torch.zeros(1)"),
        ("composer/model/loading.py", "load('x', trust_remote_code=False)"),
    ],
)
def test_what_belongs_there_is_let_in(path, source):
    assert faults(path, source) == set()

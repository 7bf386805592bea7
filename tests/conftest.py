"""What several folders of tests share: the real base with the real adapters, loaded once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores between them. Read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from composer import Engine

ROOT = Path(__file__).parent
# What compiles, trains, starts processes or loads the real base.
SLOW = (
    "benchmarks",
    "cli",
    "evaluation",
    "parity/test_real.py",
    "model/test_cuda_graphs.py",
    "model/test_loading.py",
    "model/test_native.py",
    "model/test_nf4_kernels.py",
    "model/test_passes.py",
    "model/test_row_faults.py",
    "study/test_bundled_report.py",
    "study/test_study_cli.py",
    "test_app.py",
    "test_wheel.py",
    "training",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test is one of browser, gpu, slow and quick, by where it lies."""
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        if path.startswith("browser/"):
            item.add_marker("browser")
        elif path == "test_gpu.py":
            item.add_marker("gpu")
        else:
            item.add_marker("slow" if path.startswith(SLOW) else "quick")


@pytest.fixture(scope="session")
def real_engine() -> Engine:
    """The project's own catalog: SmolLM2-135M and the bundled adapters. Tests must not change it."""
    return Engine.from_catalog("adapters.yaml")

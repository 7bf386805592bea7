"""What several folders of tests share: the real base with the real adapters, loaded once."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores between them. Read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Servers and other processes that tests start give freed memory back: glibc's, read when they start.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1048576")

from composer import Engine
from composer.adapters.catalog import load_catalog
from composer.model.checkpoints.files import is_here

ROOT = Path(__file__).parent
# What compiles, trains, starts processes or loads the real base.
SLOW = (
    "adapters/test_wheels.py",
    "benchmarks",
    "cli",
    "evaluation",
    "parity/test_real.py",
    "model/test_base_files.py",
    "model/test_cuda_graphs.py",
    "model/test_gemma_tokenizer.py",
    "model/test_loading.py",
    "model/test_native.py",
    "model/test_nf4_kernels.py",
    "model/test_nf4_on_cpu.py",
    "model/test_passes.py",
    "model/test_real_sized.py",
    "model/test_row_faults.py",
    "study/test_bundled_report.py",
    "study/test_study_cli.py",
    "test_app.py",
    "test_wheel.py",
    "training",
    "ui/replicas/test_replicas.py",
)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    # Two workers have to give a test the same name, and bytes made at import may hold the time (gzip's do).
    return argname if isinstance(val, bytes) else None


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


@pytest.fixture(scope="module", autouse=True)
def memory_is_given_back():
    """What a file's tests left goes back to the system: a worker that loaded a large base would keep it to
    the end, and the workers, their servers and the bench's processes would not fit into the memory."""
    yield
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def real_engine() -> Engine:
    """The project's own catalog: SmolLM2-135M and the bundled adapters. Tests must not change it."""
    return Engine.from_catalog("adapters.yaml")


@pytest.fixture(scope="module", params=["smollm2-135m", "gemma3-270m"])
def any_real_engine(request) -> Engine:
    """Each of the real bases that are here, with its adapters. The second family leaves with its module."""
    catalog = load_catalog("adapters.yaml")
    if request.param == catalog.default:
        return request.getfixturevalue("real_engine")
    if not is_here(catalog.base(request.param)):
        pytest.skip(f"{request.param} is not here: python -m composer fetch {request.param}")
    return Engine.from_catalog("adapters.yaml", request.param)

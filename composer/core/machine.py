"""The machine that figures come from: enough to judge them by, nothing that names a person, host or place."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def package_version(package: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine_line() -> str:
    """ "AMD EPYC, 2 cores, Python 3.11.7, torch 2.13.0+cpu", for reports."""
    return (
        f"{cpu_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {package_version('torch')}"
    )


def machine_facts(*packages: str) -> dict[str, Any]:
    """CPU, cores, threads, memory in bytes, GPU, and the packages' versions. load: the system's own, now."""
    import psutil
    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram": psutil.virtual_memory().total,
        "load": os.getloadavg()[0],
        "gpu": gpu and {"name": gpu.name, "memory": gpu.total_memory, "cuda": torch.version.cuda},
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in packages},
    }

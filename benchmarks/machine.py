"""What it was measured on: enough to judge the figures by, nothing that names a person, host or place."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def machine() -> dict:
    """CPU, cores, threads, RAM, GPU and versions. load: the machine's own load as the bench begins."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram": psutil.virtual_memory().total,
        "load": os.getloadavg()[0],
        "gpu": gpu and {"name": gpu.name, "memory": gpu.total_memory, "cuda": torch.version.cuda},
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (models or [platform.processor()])[0] or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

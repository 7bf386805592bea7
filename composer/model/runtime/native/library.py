"""Compiles step.cpp for this processor, once, and loads it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from composer.core.errors import ComposerError
from composer.model.checkpoints.converted import cache_folder
from composer.model.runtime.native.structures import declare

SOURCE = Path(__file__).with_name("step.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-w", "-fPIC", "-shared", "-pthread")
# Seconds after which the compiler is given up.
PATIENCE = 300


class CompilerError(ComposerError):
    """There is no compiler, or it failed."""


@cache
def step_library() -> ctypes.CDLL:
    """The compiled step, kept in the cache folder for the next start. Takes some ten seconds when it is new.

    Raises CompilerError where there is no C++ compiler, or none that can compile it.
    """
    compiler = _compiler()
    # The user's own folder: what is kept there is loaded as code.
    folder = cache_folder() / "compiled"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / f"step-{_fingerprint(compiler)}.so"
    if not target.exists():
        _compile(compiler, target)
    try:
        return declare(ctypes.CDLL(str(target)))
    except OSError as fault:
        target.unlink(missing_ok=True)  # cut off or of another system; it is made anew at the next start
        raise CompilerError(f"The compiled step cannot be loaded: {fault}") from fault


def _compiler() -> str:
    names = (os.environ.get("CXX", ""), *COMPILERS)
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        raise CompilerError("There is no C++ compiler; install g++ to decode faster.")
    return found


def _fingerprint(compiler: str) -> str:
    """Of everything that the compiled code depends on. Code for one processor may not run on another."""
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, timeout=PATIENCE).stdout
    except (OSError, subprocess.SubprocessError) as fault:
        raise CompilerError(f"The C++ compiler cannot be run: {fault}") from fault
    parts = (SOURCE.read_bytes(), " ".join(FLAGS).encode(), version, _processor().encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _processor() -> str:
    """What tells processors apart that take other instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    kept = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU part")
    return torch.backends.cpu.get_cpu_capability() + "".join(
        line for line in lines if line.split("\t")[0].strip(" :") in kept
    )


def _compile(compiler: str, target: Path) -> None:
    """Under another name first: a process that starts meanwhile never loads half a file."""
    handle, work = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        done = subprocess.run(
            [compiler, *FLAGS, "-o", work, str(SOURCE)], capture_output=True, timeout=PATIENCE, text=True
        )
        if done.returncode:
            raise CompilerError(f"The C++ compiler failed: {done.stderr.strip().splitlines()[:1]}")
        os.replace(work, target)
    except (OSError, subprocess.SubprocessError) as fault:
        raise CompilerError(f"The C++ compiler cannot be run: {fault}") from fault
    finally:
        Path(work).unlink(missing_ok=True)

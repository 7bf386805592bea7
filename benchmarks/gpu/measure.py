"""All of a GPU's figures in one go: an 8B shape in two formats, and a small base in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.gpu.arms import Arms
from benchmarks.gpu.progress import Progress
from benchmarks.gpu.shape import EIGHT_B, Shape, spec_of, store
from benchmarks.plan import Plan
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError
from composer.core.threads import run_in_short_lived_thread

# The mission's own case first.
FORMATS = {"nf4": "nf4", "bf16": "none"}
SMALL = "small"
SMALL_RANK = 8


def measure(
    plan: Plan,
    folder: Path,
    *,
    machine: Mapping,
    small: BaseSpec | None = None,
    out: Path | None = None,
    minutes: float = 7,
    shape: Shape = EIGHT_B,
    rank: int = 16,
    device: str = "cuda",
) -> dict:
    """Per format its steps, see benchmarks.gpu.arms; "small" has the base `small` in float32.

    folder: room for the weights once, 16 GB at full size, and the adapters. out: keeps what is measured
    there, so that a run that is cut off goes on. A format that this machine cannot load is left out, with the
    reason in "failed"; raises its ComposerError when nothing could be measured.
    """
    facts = {name: value for name, value in machine.items() if name != "load"}
    setting = {"machine": facts, "plan": asdict(plan), "shape": asdict(shape), "rank": rank}
    setting["small"] = small and small.id
    progress = Progress(out, setting, minutes)
    shared = {"progress": progress, "device": device, "plan": plan}
    for name, quantization in FORMATS.items():

        def shaped(quantization: str = quantization) -> BaseSpec:
            return spec_of(store(shape, folder / "base", device), quantization)

        _one(Arms(name, shaped, folder / "adapters", rank, **shared))
    if small is not None:
        spec = replace(small, adapters=(), attributes=(), dtype="float32", quantization="none")
        _one(Arms(SMALL, lambda: spec, folder / SMALL, SMALL_RANK, whole=False, **shared))
    if progress.failed and not any(progress.figures.values()):
        raise ComposerError(next(iter(progress.failed.values())))
    progress.finish()
    return {
        "shape": asdict(shape),
        "rank": rank,
        "device": device,
        "tokens": plan.gpu_tokens,
        "small_id": small and small.id,
        "formats": progress.figures,
        "unfinished": progress.unfinished,
        "failed": progress.failed,
    }


def _one(arms: Arms) -> None:
    """Every step of one base, in a thread that ends with it."""
    try:
        run_in_short_lived_thread(arms.run)
    finally:
        arms.close()

"""One run of the bench: the chosen sections, one after another, on one fixture."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from benchmarks import contention, fusion, gpu, page, preview, single_stream, start, throughput
from benchmarks.fixture import BenchFixture
from benchmarks.peers import measure as peers
from benchmarks.plan import Plan, SectionLeftOut
from composer.adapters.catalog import load_catalog
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError
from composer.core.machine import machine_facts
from composer.core.threads import run_in_short_lived_thread

RANK = 8
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
MEASURES = {
    "single": single_stream.measure,
    "fusion": fusion.measure,
    "users": throughput.measure,
    "preview": preview.measure,
    "page": page.measure,
    "start": start.measure,
    "contention": contention.measure,
    "peers": peers.measure,
}


def run(catalog: str | Path, base: str | None, chosen: Collection[str], plan: Plan) -> dict:
    """What was measured, as plain values: "device", "machine", "plan", "base", and a key per section.

    "left_out" has the sections that cannot be measured here, with the reason; the only one that was chosen
    raises it. A GPU's section is left out where there is none.
    """
    cuda = torch.cuda.is_available()
    if not cuda and set(chosen) == {"gpu"}:
        raise ComposerError("--only gpu needs a CUDA GPU, and there is none here; choose other sections.")
    result = {"device": "cuda" if cuda else "cpu", "machine": machine_facts(*PACKAGES), "plan": asdict(plan)}
    sections = [name for name in MEASURES if name in chosen]
    with tempfile.TemporaryDirectory() as folder:
        if sections:
            made = partial(BenchFixture, load_catalog(catalog).base(base), Path(folder) / "stand", rank=RANK)
            fixture = run_in_short_lived_thread(made)
            result["base"] = _described(fixture)
            for name in sections:
                print(f"bench: {name} ...", file=sys.stderr)
                try:
                    result[name] = run_in_short_lived_thread(partial(MEASURES[name], fixture, plan))
                except SectionLeftOut as reason:
                    if len(chosen) == 1:
                        raise
                    result.setdefault("left_out", {})[name] = str(reason)
                fixture.release()
            del fixture
        if "gpu" in chosen and cuda:
            result["gpu"] = gpu.measure(plan, Path(folder) / "gpu")
        elif "gpu" in chosen:
            print("bench: no CUDA here, so nothing is measured on a GPU", file=sys.stderr)
    return result


def _described(fixture: BenchFixture) -> dict:
    spec: BaseSpec = fixture.spec
    return {
        "id": spec.id,
        "dtype": spec.dtype,
        "quantization": spec.quantization,
        "parameters": sum(parameter.numel() for parameter in fixture.base.model.parameters()),
        "rank": RANK,
    }

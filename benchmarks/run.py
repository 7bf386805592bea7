"""One run of the bench: the chosen sections, one after another, on one fixture."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks import (
    contention,
    family,
    fusion,
    loaded,
    nf4,
    page,
    preview,
    single_stream,
    start,
    throughput,
)
from benchmarks.fixture import BenchFixture
from benchmarks.gpu import measure as gpu
from benchmarks.peers import measure as peers
from benchmarks.plan import Plan, SectionLeftOut
from composer.adapters.catalog import load_catalog
from composer.core.catalog_types import BaseSpec
from composer.core.machine import machine_facts
from composer.core.threads import run_in_short_lived_thread

RANK = 8
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
# Sections on the catalog's base.
MEASURES = {
    "single": single_stream.measure,
    "fusion": fusion.measure,
    "users": throughput.measure,
    "preview": preview.measure,
    "page": page.measure,
    "start": start.measure,
    "contention": contention.measure,
    "peers": peers.measure,
    "loaded": loaded.measure,
    "nf4": nf4.measure,
}


@dataclass(frozen=True)
class Places:
    """Folders and limits that only some sections ask for."""

    # Keeps what a run on a GPU has measured so far; None: nowhere.
    out: Path | None = None
    # Of a run on a GPU.
    minutes: float = 7
    # The base of the section family; None: the installed wheels.
    family: Path | None = None


def run(
    catalog: str | Path,
    base: str | None,
    chosen: Collection[str],
    plan: Plan,
    places: Places = Places(),
) -> dict:
    """What was measured, as plain values: "device", "machine", "plan", "base", and a key per section.

    "left_out" has the sections that cannot be measured here, with the reason; the only one that was chosen
    raises it as ComposerError.
    """
    cuda = torch.cuda.is_available()
    machine = machine_facts(*PACKAGES)
    result = {"device": "cuda" if cuda else "cpu", "machine": machine, "plan": asdict(plan)}
    spec = load_catalog(catalog).base(base)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if sections := [each for each in MEASURES if each in chosen]:
            _on_base(result, sections, spec, folder / "stand", plan, chosen)
        if "family" in chosen:
            measured = partial(family.measure, places.family, folder, RANK, plan)
            _section(result, "family", measured, chosen)
        if "gpu" in chosen:
            if cuda:
                limits = {"out": places.out, "minutes": places.minutes}
                measured = partial(gpu.measure, plan, folder / "gpu", machine=machine, small=spec, **limits)
            else:
                measured = _no_gpu
            _section(result, "gpu", measured, chosen)
    return result


def _on_base(
    result: dict, sections: list[str], spec: BaseSpec, folder: Path, plan: Plan, chosen: Collection[str]
) -> None:
    fixture = run_in_short_lived_thread(partial(BenchFixture, spec, folder, rank=RANK))
    result["base"] = _described(fixture)
    for name in sections:
        measured = partial(run_in_short_lived_thread, partial(MEASURES[name], fixture, plan))
        _section(result, name, measured, chosen)
        fixture.release()


def _section(result: dict, name: str, measured: Callable[[], dict], chosen: Collection[str]) -> None:
    print(f"bench: {name} ...", file=sys.stderr)
    try:
        result[name] = {"threads": torch.get_num_threads(), **measured()}
    except SectionLeftOut as reason:
        if len(chosen) == 1:
            raise
        print(f"bench: {reason}", file=sys.stderr)
        result.setdefault("left_out", {})[name] = str(reason)


def _no_gpu() -> dict:
    raise SectionLeftOut("--only gpu needs a CUDA GPU, and there is none here; choose other sections.")


def _described(fixture: BenchFixture) -> dict:
    spec: BaseSpec = fixture.spec
    return {
        "id": spec.id,
        "dtype": spec.dtype,
        "quantization": spec.quantization,
        "parameters": sum(parameter.numel() for parameter in fixture.base.model.parameters()),
        "rank": RANK,
    }

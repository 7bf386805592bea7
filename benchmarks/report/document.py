"""The whole report: the bars, then each device's sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.report import adapters, beside, gpu, page, speed
from benchmarks.report.words import DEVICES, NOT_YET, gigabytes
from benchmarks.targets import judge
from composer.core.document import Block, Heading, Paragraph, markdown, table

SECTIONS = {
    "single": speed.single,
    "fusion": speed.fusion,
    "users": speed.users,
    "preview": page.preview,
    "page": page.page,
    "start": page.start,
    "contention": beside.contention,
    "peers": beside.peers,
    "loaded": adapters.loaded,
    "nf4": adapters.nf4,
    "family": adapters.family,
    "gpu": gpu.gpu,
}


def as_markdown(results: Mapping[str, Mapping]) -> str:
    """The whole report. results: "cpu" and "cuda" -> what the last run on that device measured."""
    blocks: list[Block] = [Heading("What composing costs", 1), *_targets(results)]
    for device, name in DEVICES.items():
        blocks.append(Heading(f"On a {name}"))
        if device in results:
            blocks += _device(results[device])
        else:
            blocks.append(Paragraph(f"{NOT_YET.capitalize()}."))
        if device == "cuda":
            blocks += gpu.measured_before()
    return markdown(blocks)


def _targets(results: Mapping[str, Mapping]) -> Iterator[Block]:
    rows = []
    for verdict in judge(results):
        bar, measured = verdict.bar, verdict.measured
        sign = "<=" if bar.most else ">="
        figure = "-" if measured is None else f"{measured:.2f}{bar.unit}"
        rows.append([bar.device, bar.claim, f"{sign} {bar.need:g}{bar.unit}", figure, verdict.word])
    yield table(("on", "bar", "needed", "measured", "met"), rows, words=2)
    yield Paragraph(
        "Speeds are ratios of medians of one run, telemetry on; on a CPU all arms take turns. Adapters are "
        "random, on all linear layers. KL fusion on a CPU: the worst N. bf16 and nf4: the 8B shape."
    )


def _device(result: Mapping) -> Iterator[Block]:
    yield Paragraph(" ".join(_machine(result["machine"])))
    kept = (
        f"The section {section} is of an earlier run, `{command}`, on the same machine."
        for section, command in result.get("kept", {}).items()
    )
    yield Paragraph(" ".join([f"Made by `{result['command']}`.", *kept]))
    if base := result.get("base"):
        yield Paragraph(
            f"Base {base['id']}, {base['parameters'] / 1e6:.0f}M parameters, {base['dtype']}, "
            f"quantization {base['quantization']}; adapters of rank {base['rank']}."
        )
    for name, section in SECTIONS.items():
        if name in result:
            yield from section(result[name])
            if "threads" in result[name]:
                yield Paragraph(f"Threads: {result[name]['threads']}.")
        elif name in result.get("left_out", {}):
            yield Paragraph(result["left_out"][name])


def _machine(machine: Mapping) -> Iterator[str]:
    gpu, packages = machine["gpu"], machine["packages"]
    yield (
        f"{machine['cpu']}, {machine['cores']} cores ({machine['logical_cores']} logical), "
        f"torch threads {machine['threads']}, {gigabytes(machine['ram'])} RAM, "
        f"load {machine['load']:.1f} at the start; {machine['system']}."
    )
    if gpu:
        yield f"GPU {gpu['name']}, {gigabytes(gpu['memory'])}, CUDA {gpu['cuda']}."
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    yield f"Python {machine['python']}, {versions}."

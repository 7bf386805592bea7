"""Measurements as a report. Every figure comes from the results that are passed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.targets import judge
from composer.core.document import Block, Heading, Paragraph, markdown, table

DEVICES = {"cpu": "CPU", "cuda": "GPU"}
NOT_YET = "not yet measured"

ARMS = {
    "ours": "ours, {} adapters",
    "ours eager": "ours, {} adapters, not compiled",
    "ours int8": "ours, {} adapters, int8 weights",
    "peft": "PEFT `generate()`, {} active",
    "peft cat": "PEFT, {} merged by `cat`",
    "passes": "{} separate passes a token (base and each adapter alone)",
    "wall": "bare matrix-vector products",
}
# The arms of benchmarks.contention, the project's default first.
WAITS = {
    "default": "as this project sets it",
    "unset": "as libgomp does where nothing is set",
    "passive": "`OMP_WAIT_POLICY=PASSIVE`",
    "spin 0": "`GOMP_SPINCOUNT=0`",
    "spin 20000": "`GOMP_SPINCOUNT=20000`",
}
FUSION_ARMS = {
    "rows": "base prefill, {} rows",
    "fusion": "KL fusion, {} adapters",
    "peft": "{} separate PEFT passes",
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
        "Speeds are ratios of medians of one run, all arms taking turns, same dtype, telemetry on; "
        "adapters are random, on all linear layers. KL fusion: the worst N. GPU bars: the 8B shape in bf16."
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
        yield from _sections(result)
    if "gpu" in result:
        yield from _gpu(result["gpu"])


def _machine(machine: Mapping) -> Iterator[str]:
    gpu, packages = machine["gpu"], machine["packages"]
    yield (
        f"{machine['cpu']}, {machine['cores']} cores ({machine['logical_cores']} logical), "
        f"torch threads {machine['threads']}, {_gigabytes(machine['ram'])} RAM, "
        f"load {machine['load']:.1f} at the start; {machine['system']}."
    )
    if gpu:
        yield f"GPU {gpu['name']}, {_gigabytes(gpu['memory'])}, CUDA {gpu['cuda']}."
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    yield f"Python {machine['python']}, {versions}."


def _sections(sections: Mapping) -> Iterator[Block]:
    for key, section in (
        ("single", _single),
        ("fusion", _fusion),
        ("users", _users),
        ("preview", _preview),
        ("page", _page),
        ("start", _start),
        ("contention", _contention),
    ):
        if key in sections:
            yield from section(sections[key])


def _single(single: Mapping) -> Iterator[Block]:
    yield Heading(f"One stream, {single['tokens']} new tokens", 3)
    rows = [
        [
            _named(ARMS, arm),
            f"{1 / taken['median']:.1f}",
            f"{1 / taken['p90']:.1f} - {1 / taken['p10']:.1f}",
            _ms(taken["median"]),
            _ms(taken["cpu"]),
            str(taken["count"]),
        ]
        for arm, taken in single["arms"].items()
    ]
    head = ("arm", "tokens/s", "p10 - p90", "wall ms/token", "CPU ms/token", "runs")
    yield table(head, rows)
    forms = ", ".join(f"{shape} by {form}" for shape, form in single["wall_forms"].items())
    yield Paragraph(f"{_compiled(single['compiled'])} Fastest form of each bare product (out x in): {forms}.")
    yield from _profile(single["profile"])
    if "int8" in single:
        yield Paragraph("What int8 weights change, along a fixed text decoded token by token:")
        rows = [
            [
                count,
                f"{change['max']:.3f}",
                f"{change['mean']:.4f}",
                f"{change['kl']:.1e}",
                f"{change['agree']:.1%}",
                str(change["positions"]),
            ]
            for count, change in single["int8"].items()
        ]
        head = ("adapters", "max logit change", "mean", "KL nats", "same first choice", "positions")
        yield table(head, rows)


def _profile(profile: Mapping) -> Iterator[Block]:
    total = profile["total"]
    yield Paragraph("Where a token of ours with 3 adapters goes, under a profiler that slows all of it down:")
    parts = {f"`{name}`": spent for name, spent in profile["operators"].items()}
    parts |= {"other operators": profile["others"], "no operator: Python and waiting": profile["rest"]}
    rows = [[name, f"{spent:.3f}", f"{spent / total:.1%}"] for name, spent in parts.items()]
    yield table(("operator itself", "ms/token", "share"), rows)


def _compiled(compiled: Mapping[str, bool]) -> str:
    if all(compiled.values()):
        return "The decoding step was compiled, but for the arms that say otherwise."
    if not any(compiled.values()):
        return "Compiling was not available here: no arm is compiled."
    return f"Not compiled: {', '.join(name for name, done in compiled.items() if not done)}."


def _fusion(fusion: Mapping) -> Iterator[Block]:
    yield Heading(f"KL fusion, prompt of {fusion['prompt_tokens']} tokens", 3)
    one = fusion["arms"]["rows 1"]["median"]
    rows = [
        [
            _named(FUSION_ARMS, arm),
            _ms(taken["median"]),
            f"{_ms(taken['p10'])} - {_ms(taken['p90'])}",
            _ms(taken["cpu"]),
            f"{taken['median'] / one:.2f}x",
        ]
        for arm, taken in fusion["arms"].items()
    ]
    yield table(("arm", "wall ms", "p10 - p90", "CPU ms", "of one base prefill"), rows)


def _users(users: Mapping) -> Iterator[Block]:
    yield Heading(f"Many users at once, {users['tokens']} new tokens each, {users['slots']} slots", 3)
    rows = [
        [
            count,
            f"{taken['total']:.1f}",
            f"{taken['total_p10']:.1f} - {taken['total_p90']:.1f}",
            f"{taken['bare']:.1f}",
            f"{taken['each']:.1f}",
            f"{taken['first_p50']:.2f}",
            f"{taken['first_p95']:.2f}",
            _ms(taken["cpu"]),
            _gigabytes(taken["memory"]),
        ]
        for count, taken in users["counts"].items()
    ]
    head = (
        "users",
        "total tokens/s",
        "p10 - p90",
        "bare products' tokens/s",
        "tokens/s each",
        "first token p50 s",
        "p95 s",
        "CPU ms/token",
        "memory",
    )
    yield table(head, rows)
    counts = sorted(users["counts"].items(), key=lambda entry: int(entry[0]))
    (_, fewest), (_, most) = counts[0], counts[-1]
    yield Paragraph(
        "With nothing done but the bare products of as many rows, the largest crowd would have "
        f"{most['bare'] / fewest['bare']:.1f} times the smallest's tokens/s. It has "
        f"{most['total'] / fewest['total']:.1f} times, with attention, adapters, sampling, text and the "
        "reading of prompts. Memory is the whole bench process's, PEFT's copy of the base included."
    )


def _preview(preview: Mapping) -> Iterator[Block]:
    yield Heading(f"Slider to next-token preview, prompt of {preview['prompt_tokens']} tokens", 3)
    figures = [_ms(preview["p50"]), _ms(preview["p95"]), _ms(preview["cpu"]), str(preview["count"])]
    yield table(("p50 ms", "p95 ms", "CPU ms", "moves"), [figures])


def _page(page: Mapping) -> Iterator[Block]:
    yield Heading("The page in headless Chromium, 1280 x 800, server warm and uncompiled", 3)
    rows = [
        [
            "opened until its controls are usable",
            _ms(page["open_p50"]),
            _ms(page["open_p95"]),
            str(page["opens"]),
        ],
        [
            f"slider released until the next words, prompt of {page['prompt_tokens']} tokens",
            _ms(page["move_p50"]),
            _ms(page["move_p95"]),
            str(page["moves"]),
        ],
    ]
    yield table(("what", "p50 ms", "p95 ms", "times"), rows)
    yield Paragraph(
        f"While {page['tokens']} tokens were written at {page['tokens_per_second']:.0f} a second, each took "
        f"{_ms(page['main_thread'])} ms of the page's main thread. Files of our own: "
        f"{page['assets'] / 1e6:.2f} MB."
    )


def _start(start: Mapping) -> Iterator[Block]:
    yield Heading(f"Start-up, {start['adapters']} adapters, files in the system's cache", 3)
    first, load = start["first_token"], start["adapter_load"]
    yield table(
        ("what", "median s", "p10 - p90", "CPU s", "runs"),
        [_seconds("process start to first token", first), _seconds("loading one adapter", load)],
    )
    yield Paragraph(f"Memory of that process at its first token: {_gigabytes(start['memory'])}.")


def _contention(contention: Mapping) -> Iterator[Block]:
    yield Heading(
        f"Beside busy processes, three adapters, {contention['tokens']} new tokens, "
        f"{contention['cores']} cores",
        3,
    )
    loads = contention["loads"]
    rows = []
    for arm in loads["0"]:
        taken = [arms[arm] for arms in loads.values()]
        rows.append([WAITS[arm], *(f"{1 / each['median']:.1f}" for each in taken), _ms(taken[0]["cpu"])])
    heads = ("quiet" if count == "0" else f"{count} busy" for count in loads)
    yield table(("OpenMP's threads wait", *heads, "quiet, CPU ms/token"), rows)
    yield Paragraph("Tokens/s, medians; each way of waiting is a process of its own, and they take turns.")


def _gpu(gpu: Mapping) -> Iterator[Block]:
    shape = gpu["shape"]
    for dtype, sections in gpu["dtypes"].items():
        floor, ours = sections["floor"], sections["single"]["arms"]["ours 0"]["median"]
        yield Heading(
            f"Llama of {shape['num_hidden_layers']} layers, width {shape['hidden_size']}, {dtype}, "
            f"random weights, on {DEVICES[gpu['device']]}; adapters of rank {gpu['rank']}"
        )
        yield Paragraph(
            f"One token reads {_gigabytes(floor['bytes'])} of weights; at the "
            f"{floor['bandwidth'] / 1e9:.0f} GB/s of a plain copy that takes {_ms(floor['seconds'])} ms, "
            f"{floor['seconds'] / ours:.0%} of ours."
        )
        yield from _sections(sections)


def _named(names: Mapping[str, str], arm: str) -> str:
    stem, _, number = arm.rpartition(" ")
    name = names[stem or number].format(number)
    if number == "1":
        name = name.replace("adapters", "adapter").replace("rows", "row")
    return name.replace("ours, 0 adapters", "ours, base").replace(
        "`generate()`, 0 active", "`generate()`, base"
    )


def _seconds(name: str, taken: Mapping) -> list[str]:
    spread = f"{taken['p10']:.3f} - {taken['p90']:.3f}"
    return [name, f"{taken['median']:.3f}", spread, f"{taken['cpu']:.3f}", str(taken["count"])]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"

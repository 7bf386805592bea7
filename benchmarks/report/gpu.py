"""A GPU's figures: an 8B shape in two formats, a small base, and what was measured before them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from benchmarks.report.words import DEVICES, GPU_ARMS, RATES, gigabytes, ms, named, rates
from composer.core.document import Block, Heading, Paragraph, table

BEFORE = Path(__file__).parents[1] / "measured_before.json"
NAMES = {"bf16": "bfloat16", "nf4": "nf4 (bitsandbytes)", "small": "float32"}
PASSES = ("fusion", "rows")


def gpu(gpu: Mapping) -> Iterator[Block]:
    """Every format's tables, and what is missing."""
    shape = gpu["shape"]
    for name, figures in gpu["formats"].items():
        what = (
            gpu["small_id"]
            if name == "small"
            else f"Llama of {shape['num_hidden_layers']} layers, width {shape['hidden_size']}, random weights"
        )
        rank = "" if name == "small" else f"; adapters of rank {gpu['rank']}"
        yield Heading(f"{what}, {NAMES[name]}, on {DEVICES[gpu['device']]}{rank}", 3)
        yield from _format(figures, gpu["tokens"])
    for what, reason in gpu["failed"].items():
        yield Paragraph(f"{what} could not be measured: {reason}")
    if gpu["unfinished"]:
        yield Paragraph(f"No time was left for: {', '.join(gpu['unfinished'])}.")


def _format(figures: Mapping, tokens: int) -> Iterator[Block]:
    if floor := figures.get("floor"):
        yield Paragraph(
            f"One token reads {gigabytes(floor['bytes'])} of weights; at the "
            f"{floor['bandwidth'] / 1e9:.0f} GB/s of a plain copy that takes {ms(floor['seconds'])} ms."
        )
    arms = {name: taken for name, taken in figures.items() if name.partition(" ")[0] in GPU_ARMS}
    if streams := {name: taken for name, taken in arms.items() if not name.startswith(PASSES)}:
        rows = rates(streams, GPU_ARMS)
        peaks = [gigabytes(taken["memory"]) for taken in streams.values()]
        yield table((*RATES, "peak memory"), [[*row, peak] for row, peak in zip(rows, peaks, strict=True)])
        yield Paragraph(
            f"{tokens} new tokens of ours; PEFT draws fewer. One engine at a time, none in turns."
        )
    if passes := {name: taken for name, taken in arms.items() if name.startswith(PASSES)}:
        rows = [[named(GPU_ARMS, name), ms(t["median"]), ms(t["cpu"])] for name, t in passes.items()]
        yield table(("pass over the prompt", "wall ms", "CPU ms"), rows)
    if users := figures.get("users"):
        rows = [
            [
                count,
                f"{taken['total']:.1f}",
                f"{taken['each']:.1f}",
                f"{taken['first_p50']:.2f}",
                f"{taken['first_p95']:.2f}",
                ms(taken["cpu"]),
            ]
            for count, taken in users["counts"].items()
        ]
        head = ("users", "total tokens/s", "tokens/s each", "first token p50 s", "p95 s", "CPU ms/token")
        yield table(head, rows)
    if long := figures.get("long prompts"):
        yield Paragraph(
            f"With 8 adapters and {long['rows']} texts from prompts of {long['prompt_tokens']} tokens, whose "
            f"keys and values are held for {long['kv_tokens']} tokens at once while the others wait, the "
            f"most memory is {gigabytes(long['memory'])}."
        )
    if step := figures.get("step"):
        yield from _step(step)


def _step(step: Mapping) -> Iterator[Block]:
    yield Paragraph(
        f"One token with 3 adapters: {step['launches']:.0f} kernels, {step['launches_a_layer']:.1f} a layer. "
        f"They run {step['busy']:.2f} ms of the {ms(step['seconds'])} ms that a token takes: the device "
        f"idles {step['idle']:.0%} of it. CPU {ms(step['cpu'])} ms."
    )
    kernels = {**{f"`{name}`": kernel for name, kernel in step["kernels"].items()}, "others": step["others"]}
    rows = [[name, f"{kernel['ms']:.3f}", f"{kernel['launches']:.1f}"] for name, kernel in kernels.items()]
    yield table(("kernel", "ms/token", "launches/token"), rows)


@cache
def before() -> Mapping:
    """What was measured on a GPU before this section was written, as it was then."""
    return json.loads(BEFORE.read_text("utf-8"))


def measured_before() -> Iterator[Block]:
    """Those figures as a table, with machine and versions."""
    facts = before()
    machine, formats = facts["machine"], facts["formats"]
    yield Heading("Measured before this work", 3)
    yield Paragraph(
        f"{facts['when']}, commit {facts['commit']}: {machine['gpu']}, "
        f"{machine['cores']} {machine['cpu']} cores, CUDA {machine['cuda']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}, peft {machine['peft']}, bitsandbytes "
        f"{machine['bitsandbytes']}; {facts['shape']}."
    )
    rows = [
        ["floor: bytes / bandwidth of a copy", *(f"{ms(f['floor']['seconds'])} ms" for f in formats.values())]
    ]
    for arm in formats["bf16"]:
        if arm.partition(" ")[0] in GPU_ARMS:
            rows.append([named(GPU_ARMS, arm), *(f"{ms(f[arm])} ms" for f in formats.values())])
    for count in formats["bf16"]["users"]:
        taken = [f["users"][count] for f in formats.values()]
        people = "1 user" if count == "1" else f"{count} users"
        rows.append([f"{people}, total tokens/s", *(f"{each['total']:.0f}" for each in taken)])
        rows.append([f"{people}, first token p95", *(f"{each['first_p95']:.2f} s" for each in taken)])
    for arm in formats["bf16"]["memory"]:
        peaks = [gigabytes(f["memory"][arm]) for f in formats.values()]
        rows.append([f"{named(GPU_ARMS, arm)}: peak memory", *peaks])
    yield table(("per token, or per pass", *formats), rows)
    small = facts["small"]
    rows = [[named(GPU_ARMS, arm), f"{1 / small[arm]:.0f}"] for arm in ("ours 0", "ours 3", "peft 3", "bare")]
    yield table((f"{small['id']}, float32", "tokens/s"), [*rows, ["32 users", f"{small['users 32']:.0f}"]])

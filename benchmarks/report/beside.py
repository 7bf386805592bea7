"""Ours beside other processes and beside another engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.report.words import PEER_ARMS, RATES, ms, rates
from composer.core.document import Block, Heading, Paragraph, table

WAITS = {
    "default": "as this project sets it",
    "unset": "as libgomp does where nothing is set",
    "passive": "`OMP_WAIT_POLICY=PASSIVE`",
    "spin 0": "`GOMP_SPINCOUNT=0`",
    "spin 20000": "`GOMP_SPINCOUNT=20000`",
}


def contention(contention: Mapping) -> Iterator[Block]:
    yield Heading(
        f"Beside busy processes, three adapters, {contention['tokens']} new tokens, "
        f"{contention['cores']} cores",
        3,
    )
    loads = contention["loads"]
    rows = []
    for arm in loads["0"]:
        taken = [arms[arm] for arms in loads.values()]
        rows.append([WAITS[arm], *(f"{1 / each['median']:.1f}" for each in taken), ms(taken[0]["cpu"])])
    heads = ("quiet" if count == "0" else f"{count} busy" for count in loads)
    yield table(("OpenMP's threads wait", *heads, "quiet, CPU ms/token"), rows)
    yield Paragraph("Tokens/s, medians; each way of waiting is a process of its own, and they take turns.")


def peers(peers: Mapping) -> Iterator[Block]:
    yield Heading(f"Beside llama.cpp, {peers['tokens']} new tokens, {peers['threads']} threads each", 3)
    yield table(RATES, rates(peers["arms"], PEER_ARMS))
    yield Paragraph(
        f"llama.cpp is that of xllamacpp {peers['version']}. Each engine has a process for each type of "
        "weights, and all take turns. Its F32 file has exactly our float32 weights, its Q8_0 file is rounded "
        "from them. The adapters are the same, at weight 1."
    )
    rows = [
        [kind, count, f"{alike} of {peers['tokens']}"]
        for kind, counts in peers["texts"].items()
        for count, alike in counts.items()
    ]
    yield table(("llama.cpp's weights", "adapters", "first tokens that are ours too"), rows, words=2)
    busy = peers["busy"]
    yield Paragraph(
        f"Beside {busy['processes']} busy processes, {busy['tokens']} new tokens; llama.cpp's OpenMP threads "
        "wait as they do where nothing is set, or as ours do:"
    )
    yield table(RATES, rates(busy["arms"], PEER_ARMS))

"""One stream, KL fusion and many users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.report.words import ARMS, FUSION_ARMS, RATES, compiled, gigabytes, ms, named, rates
from composer.core.document import Block, Heading, Paragraph, table


def single(single: Mapping) -> Iterator[Block]:
    yield Heading(f"One stream, {single['tokens']} new tokens", 3)
    yield table(RATES, rates(single["arms"], ARMS))
    forms = ", ".join(f"{shape} by {form}" for shape, form in single["wall_forms"].items())
    if "ours float32 0" in single["arms"]:
        yield Paragraph(_shares(single["arms"]))
    yield Paragraph(f"{compiled(single['compiled'])} Fastest form of each bare product (out x in): {forms}.")
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


def _shares(arms: Mapping) -> str:
    def ratio(slower: str, faster: str) -> str:
        return f"{arms[slower]['median'] / arms[faster]['median']:.2f}"

    return (
        "Ours reads the base's weights in the fewest bits that hold them exactly, which is "
        f"{ratio('ours float32 0', 'ours 0')} times as fast as reading them as float32, and "
        f"{ratio('ours float32 3', 'ours 3')} times with 3 adapters. What adapters take is the same and so a "
        f"larger share: with 3 the speed is {ratio('ours 0', 'ours 3')} of the base's, with 8 "
        f"{ratio('ours 1', 'ours 8')} of that with 1."
    )


def fusion(fusion: Mapping) -> Iterator[Block]:
    yield Heading(f"KL fusion, prompt of {fusion['prompt_tokens']} tokens", 3)
    one = fusion["arms"]["rows 1"]["median"]
    rows = [
        [
            named(FUSION_ARMS, arm),
            ms(taken["median"]),
            f"{ms(taken['p10'])} - {ms(taken['p90'])}",
            ms(taken["cpu"]),
            f"{taken['median'] / one:.2f}x",
        ]
        for arm, taken in fusion["arms"].items()
    ]
    yield table(("arm", "wall ms", "p10 - p90", "CPU ms", "of one base prefill"), rows)


def users(users: Mapping) -> Iterator[Block]:
    yield Heading(f"Many users at once, {users['tokens']} new tokens each, {users['slots']} slots", 3)
    yield from _crowds(users["counts"])
    if "float32" in users:
        yield Paragraph("The same with weights that are read as float32:")
        yield from _crowds(users["float32"])


def _crowds(counts: Mapping) -> Iterator[Block]:
    rows = [
        [
            count,
            f"{taken['total']:.1f}",
            f"{taken['total_p10']:.1f} - {taken['total_p90']:.1f}",
            f"{taken['bare']:.1f}",
            f"{taken['each']:.1f}",
            f"{taken['first_p50']:.2f}",
            f"{taken['first_p95']:.2f}",
            ms(taken["cpu"]),
            gigabytes(taken["memory"]),
        ]
        for count, taken in counts.items()
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
    ordered = sorted(counts.items(), key=lambda entry: int(entry[0]))
    (_, fewest), (_, most) = ordered[0], ordered[-1]
    yield Paragraph(
        "With nothing done but the bare products of as many rows, the largest crowd would have "
        f"{most['bare'] / fewest['bare']:.1f} times the smallest's tokens/s. It has "
        f"{most['total'] / fewest['total']:.1f} times, with attention, adapters, sampling, text and the "
        "reading of prompts. Memory is the whole bench process's, PEFT's copy of the base included."
    )


def _profile(profile: Mapping) -> Iterator[Block]:
    total = profile["total"]
    yield Paragraph("Where a token of ours with 3 adapters goes, under a profiler that slows all of it down:")
    parts = {f"`{name}`": spent for name, spent in profile["operators"].items()}
    parts |= {"other operators": profile["others"], "no operator: Python and waiting": profile["rest"]}
    rows = [[name, f"{spent:.3f}", f"{spent / total:.1%}"] for name, spent in parts.items()]
    yield table(("operator itself", "ms/token", "share"), rows)

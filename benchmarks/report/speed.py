"""One stream, KL fusion and many users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.report.words import ARMS, FUSION_ARMS, RATES, compiled, gigabytes, ms, named, rates
from composer.core.document import Block, Heading, Paragraph, table


def single(single: Mapping) -> Iterator[Block]:
    yield Heading(f"One stream, {single['tokens']} new tokens", 3)
    yield table(RATES, rates(single["arms"], ARMS))
    forms = ", ".join(f"{shape} by {form}" for shape, form in single["wall_forms"].items())
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


def _profile(profile: Mapping) -> Iterator[Block]:
    total = profile["total"]
    yield Paragraph("Where a token of ours with 3 adapters goes, under a profiler that slows all of it down:")
    parts = {f"`{name}`": spent for name, spent in profile["operators"].items()}
    parts |= {"other operators": profile["others"], "no operator: Python and waiting": profile["rest"]}
    rows = [[name, f"{spent:.3f}", f"{spent / total:.1%}"] for name, spent in parts.items()]
    yield table(("operator itself", "ms/token", "share"), rows)

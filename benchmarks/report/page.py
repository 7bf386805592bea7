"""The page, its previews and the start of a process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.report.words import gigabytes, ms, seconds
from composer.core.document import Block, Heading, Paragraph, table


def preview(preview: Mapping) -> Iterator[Block]:
    yield Heading(f"Slider to next-token preview, prompt of {preview['prompt_tokens']} tokens", 3)
    figures = [ms(preview["p50"]), ms(preview["p95"]), ms(preview["cpu"]), str(preview["count"])]
    yield table(("p50 ms", "p95 ms", "CPU ms", "moves"), [figures])


def page(page: Mapping) -> Iterator[Block]:
    server = "compiled" if page["compiled"] else "uncompiled"
    yield Heading(f"The page in headless Chromium, 1280 x 800, server warm and {server}", 3)
    rows = [
        [
            "opened until its controls are usable",
            ms(page["open_p50"]),
            ms(page["open_p95"]),
            str(page["opens"]),
        ],
        [
            f"slider released until the next words, prompt of {page['prompt_tokens']} tokens",
            ms(page["move_p50"]),
            ms(page["move_p95"]),
            str(page["moves"]),
        ],
    ]
    yield table(("what", "p50 ms", "p95 ms", "times"), rows)
    yield Paragraph(
        f"While {page['tokens']} tokens were written at {page['tokens_per_second']:.0f} a second, each took "
        f"{ms(page['main_thread'])} ms of the page's main thread. Files of our own: "
        f"{page['assets'] / 1e6:.2f} MB."
    )


def start(start: Mapping) -> Iterator[Block]:
    yield Heading(f"Start-up, {start['adapters']} adapters, files in the system's cache", 3)
    first, load = start["first_token"], start["adapter_load"]
    yield table(
        ("what", "median s", "p10 - p90", "CPU s", "runs"),
        [seconds("process start to first token", first), seconds("loading one adapter", load)],
    )
    yield Paragraph(f"Memory of that process at its first token: {gigabytes(start['memory'])}.")

"""python -m benchmarks.scaling: writes the tables of docs/SCALING.md, what more visitors need.

A figure is measured (cpu.json, measured_before.json), of a public config, or one of the assumptions below.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from composer.core.document import Block, Heading, markdown, table

HERE = Path(__file__).parent
FILE = HERE.parent / "docs" / "SCALING.md"
START, END = "<!-- tables -->", "<!-- /tables -->"
VISITORS = (1, 30, 1_000, 100_000)
# What a visitor does: texts a minute, of so many tokens, with three adapters turned up.
TEXTS_A_MINUTE = 1
TOKENS = 60
# The share of a machine's most tokens that is planned with, since people do not press in turn.
LOAD = 0.5
# Of a hundred visitors so many add an adapter from the Hub in an hour.
ADDING = 5
SLOTS = 32
GB, HOUR = 1e9, 3600


@dataclass(frozen=True)
class Setup:
    """A machine with a base, and what 32 texts at a time were measured to get from it."""

    label: str
    machine: str
    # Of all texts together, with three adapters each.
    tokens_a_second: float
    # Seconds to the first token when 32 press at once: 95 of 100 wait less.
    first_p95: float
    # Bytes: the base and what surrounds it, keys and values of a text, and one adapter on the Hub.
    memory: float
    text: float
    adapter: float
    # What a new machine fetches before it serves.
    fetched: float
    # US dollars, an assumption.
    price_an_hour: float

    def machines(self, visitors: int) -> int:
        """How many are needed at the planned load."""
        return max(1, math.ceil(wanted(visitors) / (self.tokens_a_second * LOAD)))

    def burst(self, visitors: int) -> float:
        """Seconds until everybody has their text when all press at once."""
        return visitors * TOKENS / (self.machines(visitors) * self.tokens_a_second)

    @property
    def all_memory(self) -> float:
        """Bytes of one machine with all slots at work."""
        return self.memory + SLOTS * self.text

    @property
    def a_thousand_texts(self) -> float:
        """US dollars at the planned load."""
        seconds = 1000 * TOKENS / (self.tokens_a_second * LOAD)
        return seconds / HOUR * self.price_an_hour

    def hub_bytes(self, visitors: int) -> float:
        """Fetched in an hour for adapters that visitors add, if no two add the same one."""
        return visitors * ADDING / 100 * self.adapter


def wanted(visitors: int) -> float:
    """Tokens a second that so many visitors ask for on average."""
    return visitors * TEXTS_A_MINUTE * TOKENS / 60


def setups() -> tuple[Setup, ...]:
    """Those that something was measured of."""
    cpu = json.loads((HERE / "cpu.json").read_text("utf-8"))
    before = json.loads((HERE / "measured_before.json").read_text("utf-8"))
    users = cpu["users"]["counts"][str(SLOTS)]
    # bytes of keys and values a token: 2 x layers x KV heads x width of a head x bytes of a number
    small, large = 2 * 30 * 3 * 64 * 4, 2 * 32 * 8 * 128 * 2
    formats: Mapping[str, tuple[str, float]] = {"bf16": ("bfloat16", 16.06 * GB), "nf4": ("nf4", 5.70 * GB)}
    return (
        Setup(
            "SmolLM2 135M, float32",
            f"2 cores ({cpu['machine']['cpu']})",
            users["total"],
            users["first_p95"],
            users["memory"],
            small * (100 + TOKENS),
            4.9e6,
            0.27 * GB,
            0.08,
        ),
        *(
            Setup(
                f"an 8B base, {label}",
                "one H100 (80 GB)",
                before["formats"][name]["users"][str(SLOTS)]["total"],
                before["formats"][name]["users"][str(SLOTS)]["first_p95"],
                weights,
                large * (100 + TOKENS),
                84e6,
                16.06 * GB,
                3.0,
            )
            for name, (label, weights) in formats.items()
        ),
    )


def tables() -> str:
    """What docs/SCALING.md has between its two marks."""
    heads = (
        "base",
        "machine",
        "tokens/s of 32 texts",
        "first token p95, s",
        "memory, GB",
        "$ a thousand texts",
    )
    rows = [
        (
            each.label,
            each.machine,
            f"{each.tokens_a_second:.0f}",
            f"{each.first_p95:.2f}",
            f"{each.all_memory / GB:.1f}",
            f"{each.a_thousand_texts:.3f}",
        )
        for each in setups()
    ]
    return markdown([table(heads, rows, 2), *(block for each in setups() for block in _needs(each))])


def _needs(setup: Setup) -> tuple[Block, ...]:
    heads = ("visitors", "tokens/s", "machines", "all press at once, s", "memory of all, GB")
    heads += ("fetched at the start, GB", "Hub, GB an hour", "$ an hour")
    rows = [
        (
            f"{visitors:,}",
            f"{wanted(visitors):,.0f}",
            f"{setup.machines(visitors):,}",
            f"{setup.burst(visitors):.1f}",
            f"{setup.machines(visitors) * setup.all_memory / GB:,.0f}",
            f"{setup.machines(visitors) * setup.fetched / GB:,.1f}",
            f"{setup.hub_bytes(visitors) / GB:,.2f}",
            f"{setup.machines(visitors) * setup.price_an_hour:,.2f}",
        )
        for visitors in VISITORS
    ]
    return Heading(f"{setup.label}, on {setup.machine}", 3), table(heads, rows)


if __name__ == "__main__":
    before, start, rest = FILE.read_text("utf-8").partition(START)
    FILE.write_text(f"{before}{start}\n{tables()}\n{END}{rest.partition(END)[2]}", "utf-8")

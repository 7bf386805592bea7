"""What loaded adapters cost, a base in 4 bits, and a base of another family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.report.words import ARMS, LOADED_ARMS, NF4_ARMS, RATES, compiled, rates
from composer.core.document import Block, Heading, Paragraph, table


def loaded(loaded: Mapping) -> Iterator[Block]:
    yield Heading(f"Loaded and not in use: {loaded['used']} adapters at weight 1, the others at 0", 3)
    yield table(RATES, rates(loaded["arms"], LOADED_ARMS))
    yield Paragraph(f"{loaded['tokens']} new tokens. {compiled(loaded['compiled'])}")


def nf4(nf4: Mapping) -> Iterator[Block]:
    yield Heading("In 4 bits (nf4, double quantization), as QLoRA trains on it", 3)
    yield table(RATES, rates(nf4["arms"], NF4_ARMS))
    yield Paragraph(f"{nf4['tokens']} new tokens. {compiled(nf4['compiled'])}")


def family(family: Mapping) -> Iterator[Block]:
    yield Heading(
        f"Another family: {family['model_type']}, {family['parameters'] / 1e6:.0f}M parameters, float32", 3
    )
    yield table(RATES, rates(family["arms"], ARMS))
    yield Paragraph(
        f"{family['layers']} layers, width {family['width']}; adapters of rank {family['rank']}; "
        f"{family['tokens']} new tokens. {compiled(family['compiled'])}"
    )

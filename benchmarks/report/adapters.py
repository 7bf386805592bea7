"""What loaded adapters cost, and a base of another family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.report.words import ARMS, LOADED_ARMS, RATES, compiled, rates
from composer.core.document import Block, Heading, Paragraph, table


def loaded(loaded: Mapping) -> Iterator[Block]:
    yield Heading(f"Loaded and not in use: {loaded['used']} adapters at weight 1, the others at 0", 3)
    yield table(RATES, rates(loaded["arms"], LOADED_ARMS))
    yield Paragraph(f"{loaded['tokens']} new tokens. {compiled(loaded['compiled'])}")


def family(family: Mapping) -> Iterator[Block]:
    yield Heading(
        f"Another family: {family['model_type']}, {family['parameters'] / 1e6:.0f}M parameters, float32", 3
    )
    yield table(RATES, rates(family["arms"], ARMS))
    yield Paragraph(
        f"{family['layers']} layers, width {family['width']}; adapters of rank {family['rank']}; "
        f"{family['tokens']} new tokens. {compiled(family['compiled'])}"
    )

"""The report's part on KL's alpha: whether it follows the prompt, and its course over the layers."""

from __future__ import annotations

from collections.abc import Sequence

from composer.core.document import Block, DataTable, Heading, Paragraph, Picture
from composer.study.reporting import figures
from composer.study.statistics.alpha_profile import AlphaProfile
from composer.study.statistics.permutation_test import TEST, PermutationResult


def pattern_blocks(patterns: Sequence[AlphaProfile], file: str) -> list[Block]:
    """Nothing without profiles. file: the figure's name."""
    if not patterns:
        return []
    rows = []
    for pattern in patterns:
        rows.append((f"{pattern.attribute}, mean over layers", *_follow(pattern.overall)))
        rows.append((f"{pattern.attribute}, last layer", *_follow(pattern.last)))
        if len(pattern.names) > 2:  # two share out a whole: what one gains the other loses
            rows += [(f"{name}, mean over layers", *_follow(each)) for name, each in pattern.each.items()]
    loud = "; ".join(
        f"{pattern.attribute} {pattern.norm_correlation:.2f}"
        for pattern in patterns
        if pattern.norm_correlation is not None
    )
    return [
        Heading("Does KL's alpha follow the prompt?", 3),
        Paragraph(TEST),
        DataTable(("alpha of", "own prompts", "gain", "p", "verdict"), tuple(rows)),
        *([Paragraph(f"Correlation of alpha with the adapters' own norms: {loud}.")] if loud else ()),
        Picture(
            figures.pattern_figure(patterns),
            "Alpha per layer: solid on the study's prompts, which are nobody's, dashed on an adapter's own.",
            file,
        ),
    ]


def _follow(found: PermutationResult) -> tuple[str, ...]:
    return str(found.prompts), f"{100 * found.gain:+.1f} points", f"{found.p:.4f}", found.verdict

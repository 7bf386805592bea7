"""The report's part that no judge has a say in: losses on held-out texts, and shares by layer."""

from __future__ import annotations

from collections.abc import Mapping

from composer.core.document import Block, DataTable, Heading, Paragraph, Picture
from composer.study.domains import tables
from composer.study.domains.figures import FLAT
from composer.study.domains.report import READING, SHARES, TEST
from composer.study.domains.statistics import best_way
from composer.study.domains.stored import StoredDomains
from composer.study.reporting.charts import Panel, Series, svg
from composer.study.reporting.figures import COLORS

LOSSES = (
    "**Without judges**: next-token loss on held-out texts of the adapters' own domains, in nats a token. "
    "Differences are to the base's; negative is better. Of all adapters that are composed one is right."
)


def domain_blocks(found: StoredDomains | None, file: str) -> list[Block]:
    """Nothing without the test. file: the figure's name."""
    if found is None:
        return []
    return [
        Heading("Without judges: held-out texts of several domains", 3),
        *map(Paragraph, found.sentences),
        Paragraph(READING),
        tables.ways_table(found.ways),
        Paragraph(f"Does a query's own weighting beat a domain-blind one? {TEST}"),
        tables.test_table(found.tests),
        Paragraph(f"Which adapter gets the largest share? {SHARES}"),
        tables.share_table(found.shares),
        Picture(
            layer_figure(found),
            "By layer: the right adapter's share, and how often it has the largest. Dashed: chance.",
            file,
        ),
        *map(Paragraph, found.notes),
    ]


def domain_summary(found: Mapping[str, StoredDomains]) -> list[Block]:
    """The test on every base, by its name, for who has a minute; nothing where none has it."""
    if not found:
        return []
    head = (
        "on",
        "domains",
        "base's loss",
        "right adapter alone",
        "best way to compose all",
        "average of all",
        "KL's share for the right adapter",
        "chance",
        "a query's own KL weights minus the queries' mean",
    )
    return [Paragraph(LOSSES), DataTable(head, tuple(_summary(*each) for each in found.items()), words=1)]


def _summary(title: str, found: StoredDomains) -> tuple[str, ...]:
    by_label = {way.label: way for way in found.ways}
    best = best_way(found.ways)
    return (
        title,
        str(len(found.names)),
        f"{by_label['Base'].loss:.3f}",
        tables.signed(by_label["The right adapter alone"].minus_base),
        f"{best.label}: {tables.signed(best.minus_base)}",
        tables.signed(by_label["Average"].minus_base),
        found.shares["kl"].share.as_percent(),
        f"{1 / len(found.names):.1%}",
        tables.signed(found.tests[0].minus_blind),
    )


def domain_sentences(found: StoredDomains, title: str) -> list[Block]:
    """The test on one base in words. Of KL's kinds it tells the published one."""
    head = f"**Without judges**, on held-out texts of {len(found.names)} domains ({title}):"
    return [Paragraph(head), *(Paragraph(f"- {each}") for each in found.sentences[:3])]


def layer_figure(found: StoredDomains) -> str:
    """Measures whose share is the same in every layer are left out."""
    drawn = [each for name, each in found.shares.items() if name not in FLAT]
    panels = []
    for title, field in (("share of the right adapter", "by_layer"), ("it is the largest", "top1_by_layer")):
        series = tuple(
            Series(
                each.label,
                tuple((layer, float(share)) for layer, share in enumerate(getattr(each, field), start=1)),
                color,
            )
            for each, color in zip(drawn, COLORS, strict=False)
        )
        panels.append(Panel(title, "layer", series, level=1 / len(found.names)))
    return svg(panels)

"""The test as a report: what was found in a few sentences, tables, figures, and everything as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from composer.core import document
from composer.core.document import Block, Heading, Paragraph, Picture
from composer.core.errors import ComposerError
from composer.core.jsonable import to_jsonable
from composer.evaluation.metrics import Interval
from composer.study.domains import figures, tables
from composer.study.domains.measure import DomainMeasurement
from composer.study.domains.statistics import (
    QueryTest,
    ShareProfile,
    WaySummary,
    profiles,
    query_tests,
    summaries,
)
from composer.study.domains.tables import percent, signed

TITLE = "Which way finds the right adapter? Held-out texts of several domains, no judge"
NAME = "domains"
READING = (
    "A passage's first tokens are the query, the rest is scored: mean next-token loss, nats a token, "
    "lower is better. All adapters are on at weight 1; a method's scale says what its gates sum to in a "
    "layer, about: one adapter's (1) or N of them. Gates that depend on the prompt are computed from the "
    "query alone. Right adapter: the one trained on the passage's domain. Gap recovered: how much of the "
    "way from the base's loss to the right adapter's. In brackets: 95% interval, a bootstrap over "
    "passages; differences are paired. Hindsight knows the losses. Nothing is sampled, and nothing is "
    "corrected for the number of comparisons."
)
SHARES = (
    "Share: of a layer, as the method makes it of the query, with all adapters at the same weight. "
    "Largest: the right adapter has the largest share, mean over layers. Gain: how much more a domain's "
    "adapter gets from its own queries than from others', and the permutation test of that (owners "
    "shuffled among passages). Not of the query: how much of the shares' variance is each adapter's mean "
    "in that layer over all queries. With norms: correlation of the shares with those of the adapters' "
    "weights (Frobenius norm) and of their outputs (contribution at the query's last token), by layer."
)
TEST = (
    "Loss under the gates of the passage's own query less the loss under other gates of the same kind: "
    "the mean of all queries' gates, which knows no domain, and the gates of one query of another domain. "
    "Below 0: reading the query helps."
)


def blocks(found: DomainMeasurement, notes: Sequence[str]) -> list[Block]:
    """The whole report in order."""
    ways, tests, shares = summaries(found), query_tests(found), profiles(found)
    kl = shares["kl"]
    left_out = [f"Left out: {label}. {reason}" for label, reason in found.left_out.items()]
    return [
        Heading(TITLE, 1),
        Heading("In short"),
        *map(Paragraph, _short(found, ways, tests, shares)),
        Heading("All domains together"),
        Paragraph(READING),
        tables.ways_table(ways),
        *map(Paragraph, left_out),
        Heading("By domain: loss minus the base's"),
        tables.domain_table(ways, found.names),
        Heading("Each adapter alone on each domain: loss minus the base's"),
        tables.alone_table(found),
        Heading("Does a query's own weighting beat a domain-blind one?"),
        Paragraph(TEST),
        tables.test_table(tests),
        Heading("Which adapter gets the largest share?"),
        Paragraph(SHARES),
        tables.share_table(shares),
        Picture(
            figures.layer_figure(shares, len(found.names)),
            "Left: the right adapter's share by layer, mean over passages with its 95% interval. Right: how "
            "often it has the largest share. Dashed: chance.",
        ),
        Picture(
            figures.domain_figure(kl, found.names),
            "KL with the final norm in the lens, mean over layers. If the shares followed the query, the "
            "diagonals would stand out.",
        ),
        Heading("Domain (rows) and the adapter with the largest KL share (columns), passages", 3),
        tables.confusion_table(kl, found.names),
        Heading("By layer: the right adapter's share, and how often it is the largest", 3),
        tables.layer_table(shares),
        Heading("How it was made"),
        *map(Paragraph, notes),
    ]


def write(found: DomainMeasurement, notes: Sequence[str], folder: Path) -> str:
    """domains.md, domains.html and domains.json; returns the Markdown. Raises ComposerError."""
    made = blocks(found, notes)
    text = document.markdown([_as_text(block) for block in made])
    files = {
        "md": text,
        "html": document.html(TITLE, made, figures.draw),
        "json": json.dumps(as_object(found, notes)),
    }
    try:
        for suffix, whole in files.items():
            (folder / f"{NAME}.{suffix}").write_text(whole, "utf-8")
    except OSError as fault:
        raise ComposerError("The output folder cannot be used; choose another with --out.") from fault
    return text


def as_object(found: DomainMeasurement, notes: Sequence[str]) -> object:
    """Everything as JSON can say it; losses of single passages in the order of `owners`."""
    return to_jsonable(
        {
            "names": found.names,
            "ways": [asdict(way) for way in summaries(found)],
            "query_tests": [asdict(test) for test in query_tests(found)],
            "shares": {name: asdict(each) for name, each in profiles(found).items()},
            "left_out": found.left_out,
            "notes": notes,
            "passages": {
                "owners": found.owners,
                "base": found.base,
                "alone": found.alone,
                "composed": found.composed,
                "blind": found.blind,
                "permuted": found.permuted,
            },
        }
    )


def _short(
    found: DomainMeasurement,
    ways: Sequence[WaySummary],
    tests: Sequence[QueryTest],
    shares: Mapping[str, ShareProfile],
) -> list[str]:
    by_label = {way.label: way for way in ways}
    right = by_label["The right adapter alone"]
    best = next(way for way in ways if way.total)
    average, kl = by_label["Average"], shares["kl"]
    chance = 1 / len(found.names)
    helps = "lowers" if right.minus_base.high < 0 else "does not lower"
    sentences = [
        f"The right adapter alone {helps} the base's loss of {by_label['Base'].loss:.3f}: "
        f"{signed(right.minus_base)} nats a token. The lowest of all ways to compose all "
        f"{len(found.names)}: {best.label}, {signed(best.minus_base)}, {percent(best.recovered)} of that "
        f"gap; the average: {signed(average.minus_base)}, {percent(average.recovered)}.",
        f"KL's share for the right adapter is {percent(kl.share)}, chance {chance:.1%}; it is the largest "
        f"for {percent(kl.top1)} of the passages. {kl.fixed:.0%} of the shares' variance does not depend on "
        "the query.",
    ]
    sentences += [
        f"{test.label}: a query's own gates {_verdict(test.minus_blind)} the mean over all queries "
        f"({signed(test.minus_blind)} nats a token) and {_verdict(test.minus_permuted)} those of a query of "
        f"another domain ({signed(test.minus_permuted)})."
        for test in tests
    ]
    return sentences


def _verdict(gap: Interval) -> str:
    if not gap.excludes_zero:
        return "are not shown to differ from"
    return "are better than" if gap.high < 0 else "are worse than"


def _as_text(block: Block) -> Block:
    return Paragraph(f"*{block.text} (Drawn in {NAME}.html.)*") if isinstance(block, Picture) else block

"""The test as a report: what was found in a few sentences, tables, figures, and everything as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from composer.core import document
from composer.core.document import Block, Heading, Paragraph, Picture
from composer.core.errors import ComposerError
from composer.core.jsonable import to_jsonable
from composer.study.domains import figures, tables
from composer.study.domains.in_words import in_short
from composer.study.domains.measure import DomainMeasurement
from composer.study.domains.statistics import profiles, query_tests, summaries

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
        *map(Paragraph, in_short(found.names, ways, tests, shares)),
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


def _as_text(block: Block) -> Block:
    return Paragraph(f"*{block.text} (Drawn in {NAME}.html.)*") if isinstance(block, Picture) else block

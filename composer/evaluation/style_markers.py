"""Markers of styles that no judge decides: a pattern that a text matches or not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from composer.core.document import Block, DataTable, Paragraph
from composer.evaluation.metrics import Interval, over_prompts
from composer.evaluation.texts import BASE, Text


@dataclass(frozen=True)
class StyleMarker:
    """A pattern that tells a style where no judge does."""

    # An adapter's name.
    style: str
    # What is looked for.
    help: str
    # What finds it, anywhere in a text.
    pattern: re.Pattern[str] = field(repr=False)


@dataclass(frozen=True)
class MarkerRate:
    """Which share of a style's texts has its sign, and which of the base's."""

    style: str
    marker: str
    share: Interval
    base: float | None


STYLE_MARKERS: tuple[StyleMarker, ...] = (
    StyleMarker(
        "archaic",
        "a word such as thou, hath or unto",
        re.compile(
            # -eth in small letters only: Elizabeth is no archaism.
            r"\b(thou|thee|thy|thine|ye|unto|hath|doth|hast|shalt|wilt|thereof|behold|'tis|"
            r"(?-i:[a-z]{3,}eth))\b",
            re.I,
        ),
    ),
    StyleMarker(
        "polite",
        "please, a thanks, an apology, could you or the like",
        re.compile(
            r"\b(please|thank\w*|(would|could|can|may) (you|i|we)|sorry|appreciat\w*|grateful|kindly|"
            r"apolog\w+)\b",
            re.I,
        ),
    ),
    StyleMarker(
        "formal",
        "no contraction",
        re.compile(
            r"(?is)\A(?!.*(\w['\u2019]([dmt]|ll|re|ve)\b"
            r"|\b(it|that|there|here|he|she|what|who|let)['\u2019]s\b))"
        ),
    ),
    StyleMarker("simple", "no word of nine letters or more", re.compile(r"(?s)\A(?!.*\w{9})")),
    StyleMarker("question", "two questions or more", re.compile(r"(?s)\?.*\?")),
    StyleMarker("poetic", "three lines or more", re.compile(r"\S[^\n]*\n\s*\S[^\n]*\n\s*\S")),
)


def measure_style_markers(
    texts: Sequence[Text], markers: Sequence[StyleMarker] = STYLE_MARKERS
) -> list[MarkerRate]:
    """For each style among the subjects, the share of its continuations that match its marker."""
    own = {subject: tuple(its) for subject, its in groupby(texts, lambda text: text.subject)}
    return [_rate(marker, own[marker.style], own.get(BASE, ())) for marker in markers if marker.style in own]


def blocks(rows: Sequence[MarkerRate]) -> list[Block]:
    """The rows as a table and a note; nothing where there are none."""
    if not rows:
        return []
    cells = tuple(
        (
            row.style,
            row.marker,
            row.share.as_percent(),
            "-" if row.base is None else f"{row.base:.1%}",
        )
        for row in rows
    )
    head = ("style", "sign", "its texts [95%]", "base alone")
    note = (
        "No judge decides on a style. Sign: something that is in a continuation or is not; a sign is not the "
        "style, and a text can have the style without it."
    )
    return [DataTable(head, cells, words=2), Paragraph(note)]


def _rate(marker: StyleMarker, own: Sequence[Text], base: Sequence[Text]) -> MarkerRate:
    share, alone = _share(marker, own), _share(marker, base)
    return MarkerRate(marker.style, marker.help, share, alone.value if alone else None)


def _share(marker: StyleMarker, texts: Sequence[Text]) -> Interval | None:
    return over_prompts(
        (text.prompt, float(bool(marker.pattern.search(text.continuation)))) for text in texts
    )

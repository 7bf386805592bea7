"""What a model card says of an adapter: licence, training data, measured control. All of it a stranger's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from composer.adapters.strict_yaml import read_stranger_yaml
from composer.core.errors import ComposerError, sanitize

CARD = "README.md"
# Bytes of a card that is read.
LONGEST = 200_000
LONGEST_FACT = 160
MOST_DATASETS = 6
# Rows of the tables that `composer evaluate` writes: what was found in its texts, with an interval, and in
# the base's. A style has a sign before them, and a judge's row more columns after.
_SHARE = r"\d+(?:\.\d+)?%"
_CONTROL = re.compile(
    rf"^\|[^|\n]+\|(?: ([^|\n]+?) \|)? ({_SHARE} \[[\d.]+%, [\d.]+%\]) \| ({_SHARE}) \|", re.M
)
_DATASET = re.compile(r"^- `(?:https://github\.com/)?([\w./-]+)`(?:[^\n]*?Licence: ([^\n]+?)\.?)?$", re.M)


@dataclass(frozen=True)
class ModelCard:
    """Empty fields are what the card does not say."""

    license: str = ""
    datasets: tuple[str, ...] = ()
    # "95.2% [90.5%, 99.0%]" of its texts have the attribute, and what the base alone has.
    control: str = ""
    alone: str = ""
    # What was looked for where no judge decides, such as "a word such as thou".
    sign: str = ""


def parse_card(text: str) -> ModelCard:
    """The card's facts, each a short line of plain text."""
    head, body = _split(text)
    listed = _DATASET.findall(_section(body, "Data"))
    licences = dict.fromkeys(licence for _, licence in listed if licence)
    datasets = _texts(head.get("datasets")) or list(dict.fromkeys(name for name, _ in listed))
    license = _texts(head.get("license")) or ["; ".join(licences)]
    control = _CONTROL.search(body)
    return ModelCard(
        license[0][:LONGEST_FACT],
        tuple(datasets[:MOST_DATASETS]),
        control[2] if control else "",
        control[3] if control else "",
        sanitize(control[1] or "", LONGEST_FACT) if control else "",
    )


def _split(text: str) -> tuple[Mapping[str, object], str]:
    """The card's YAML head and the Markdown under it."""
    parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.M)
    if len(parts) < 3 or parts[0].strip():
        return {}, text
    try:
        head = read_stranger_yaml(parts[1], "model card", LONGEST)
    except ComposerError:
        return {}, parts[2]
    return head if isinstance(head, Mapping) else {}, parts[2]


def _section(body: str, title: str) -> str:
    found = re.search(rf"^## {title}\s*$(.*?)(?=^## |\Z)", body, re.M | re.S)
    return found[1] if found else ""


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [sanitize(each, LONGEST_FACT) for each in values if isinstance(each, str) and each.strip()]

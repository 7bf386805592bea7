"""Labelled rows in, token sequences of one fixed length out. Pure functions but for the reading of files."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from composer.core.errors import ComposerError
from composer.training.recipes import Corpus

IGNORED = -100  # the label that transformers' loss skips
ANYWHERE: Mapping[str, str] = MappingProxyType({})


class Row(NamedTuple):
    text: str
    label: str


class Pool(NamedTuple):
    """Texts of one kind. chance: of a text being drawn from it. control: the words before each of them.
    silent: how many of a text's first words carry no loss.
    """

    chance: float
    texts: Sequence[str]
    control: str = ""
    silent: int = 0


@dataclass(frozen=True)
class Sample:
    """One training sequence: `ids` and `labels` of equal length; a label of -100 carries no loss."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


def normal(text: str) -> str:
    """A text as compared for identity: case and spacing do not count."""
    return " ".join(text.lower().split())


def side(text: str) -> str:
    """Which half of a shared corpus a text belongs to, "adapter" or "judge"; depends on the text alone."""
    digest = hashlib.sha256(normal(text).encode()).digest()
    return "adapter" if digest[0] % 2 == 0 else "judge"


def read_rows(corpus: Corpus, data: Path | None) -> list[Row]:
    """The corpus's rows on the adapters' side, from the data folder, or from the Hub when `data` is None."""
    rows = _from_hub(corpus) if data is None else _from_folder(corpus, data)
    return [row for row in rows if corpus.side == "all" or side(row.text) == corpus.side]


def _from_folder(corpus: Corpus, data: Path) -> list[Row]:
    rows = read_file(data, corpus.file, corpus.where)
    return [Row(row.text, corpus.labels[row.label]) for row in rows if row.label in corpus.labels]


def read_file(data: Path, file: str, where: Mapping[str, str] = ANYWHERE) -> list[Row]:
    """The rows of a gzipped JSON Lines file of the data folder. Raises ComposerError if there are none.

    where: field -> value; only rows that have all of them.
    """
    fault: Exception | None = None
    rows: list[Row] = []
    try:
        with gzip.open(data / file, "rt", encoding="utf-8") as lines:
            rows = [
                Row(str(row["text"]).strip(), str(row["label"]))
                for row in map(json.loads, lines)
                if all(row[field] == value for field, value in where.items())
            ]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as caught:
        fault = caught
    if not rows:
        raise ComposerError(
            f"{file} is missing from the data folder or broken; give the folder that holds it with --data."
        ) from fault
    return rows


def _from_hub(corpus: Corpus) -> list[Row]:
    hub = corpus.hub
    if hub is None:
        raise ComposerError(
            f"The Hub has no set of the form of {corpus.name}; give the folder that holds "
            f"{corpus.file} with --data."
        )
    try:
        from datasets import load_dataset
    except ImportError as fault:
        raise ComposerError(
            "Training from the Hub needs the datasets package (pip install datasets); "
            "or give a folder with --data."
        ) from fault
    table = load_dataset(hub.id, split=hub.split)
    return [
        Row(record[hub.text].strip(), hub.labels[record[hub.label]])
        for record in table
        if record[hub.label] in hub.labels
    ]


def pack(
    pools: Sequence[Pool],
    prefixes: Sequence[str],
    tokenizer,
    *,
    count: int,
    length: int,
    distractor_share: float,
    seed: int,
    separator: str = " ",
) -> list[Sample]:
    """`count` sequences of exactly `length` tokens, each made of whole texts with `separator` in between.

    Texts are drawn from the pools by their chances, so that a large corpus does not drown a small one. Within
    a pool every text is used before any is used twice. A share of the sequences begins with a distractor
    prefix of at most a third of the length. Prefixes, control words and silent words carry no loss, nor what
    the tokenizer puts before every prompt, with which each sequence begins.
    """
    draw = random.Random(seed)
    if not pools or not all(pool.texts for pool in pools):
        raise ComposerError("A corpus has no text left after the filters; lower `confidence` in the recipe.")
    streams = [zip(repeat(pool), _endless(list(pool.texts), draw)) for pool in pools]
    chances = [pool.chance for pool in pools]
    begin = beginning(tokenizer)
    packed = []
    for _ in range(count):
        ids = list(begin)
        if prefixes and draw.random() < distractor_share:
            ids += tokenizer(draw.choice(prefixes), add_special_tokens=False)["input_ids"][: length // 3]
        labels = [IGNORED] * len(ids)
        while len(ids) < length:
            pool, text = next(*draw.choices(streams, chances))
            own, loss = _encoded(tokenizer, separator if len(ids) > len(begin) else "", pool, text)
            ids += own
            labels += loss
        packed.append(Sample(tuple(ids[:length]), tuple(labels[:length])))
    return packed


def beginning(tokenizer) -> tuple[int, ...]:
    """The tokens that the tokenizer puts before a text, such as BOS."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    places = (place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
    return tuple(whole[: next(places, 0)])


def first_words(text: str, count: int) -> str:
    """The text up to its `count`-th word, or all of a shorter one."""
    # With the line breaks between them: they tell the base that a verse goes on.
    return re.match(rf"(?:\s*\S+){{0,{count}}}", text).group()


def _encoded(tokenizer, lead: str, pool: Pool, text: str) -> tuple[list[int], list[int]]:
    """Ids and labels of a text with what stands before it, in the tokens that a prompt would have."""
    whole = tokenizer(lead + pool.control + text, add_special_tokens=False, return_offsets_mapping=True)
    # The space after what is silent belongs to the next token.
    before = (pool.control + first_words(text, pool.silent)).rstrip()
    silent = len(lead + before) if before else 0
    starts = (start for start, _ in whole["offset_mapping"])
    ids = whole["input_ids"]
    return ids, [each if start >= silent else IGNORED for each, start in zip(ids, starts, strict=True)]


def _endless(texts: list[str], draw: random.Random) -> Iterator[str]:
    while True:
        draw.shuffle(texts)
        yield from texts


def first_sentence(text: str, limit: int = 90) -> str | None:
    """The text's first sentence if it is short enough to serve as an opener, else None."""
    for mark in (". ", "! ", "? "):
        head, found, _ = text.partition(mark)
        if found:
            text = head + mark.strip()
    return text if len(text) <= limit and text.endswith((".", "!", "?")) else None

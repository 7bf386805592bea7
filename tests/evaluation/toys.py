"""Toy corpora in the layout of the real data folder, small enough to train a judge in a blink."""

from __future__ import annotations

import gzip
import json
from itertools import product
from pathlib import Path

GOOD = ("lovely", "great", "delightful", "wonderful")
BAD = ("awful", "boring", "dreadful", "terrible")
THINGS = ("film", "meal", "song", "hotel", "story", "garden")
TOPICS = {
    "world": ("minister", "treaty", "border"),
    "sports": ("goal", "coach", "season"),
    "business": ("shares", "profit", "bank"),
    "sci-tech": ("software", "planet", "chip"),
}


def sentiment(opening: str) -> list[tuple[str, str]]:
    return [
        (f"{opening} {thing} was {word}.", label)
        for label, words in (("positive", GOOD), ("negative", BAD))
        for word, thing in product(words, THINGS)
    ]


def topics() -> list[tuple[str, str]]:
    return [
        (f"The {word} of the {thing} {number}", label)
        for label, words in TOPICS.items()
        for word, thing, number in product(words, THINGS, range(4))
    ]


# What the recipes of styles read besides: rows that no judge has.
STYLES = {
    f"{name}/train.jsonl.gz": [(f"A row of {name}.", "any")]
    for name in (
        "bible_styles",
        "formality_pavlick",
        "gutenberg_poetry",
        "onestop_english",
        "politeness_stanford",
        "questions",
        "shakespeare",
    )
}
FILES = {
    **STYLES,
    "imdb_short/train.jsonl.gz": sentiment("The"),
    "imdb_short/test.jsonl.gz": sentiment("Their"),
    "sst_cased/train.jsonl.gz": sentiment("An"),
    "sst_cased/dev.jsonl.gz": sentiment("This"),
    "sst_cased/test.jsonl.gz": [*sentiment("That"), ("It is a film.", "neutral")],
    "yelp_short/train.jsonl.gz": sentiment("Her"),
    "yelp_short/test.jsonl.gz": sentiment("His"),
    "ag_news/train.jsonl.gz": topics(),
}


def write(folder: Path, files: dict[str, list[tuple[str, str]]] = FILES) -> Path:
    for name, rows in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as out:
            out.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    return folder

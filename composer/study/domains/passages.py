"""Held-out passages: rows that no adapter saw, of one domain, in equally many tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.core.errors import ComposerError
from composer.evaluation.judges.training import adapters_texts
from composer.model.tokens import encode_prompt
from composer.study.domains.registry import Domain, Source
from composer.training.data import normal, read_file, side

# Of a passage, and of its beginning, which is the query: about a third of it.
TOKENS = 36
QUERY = 12


@dataclass(frozen=True)
class Passage:
    """A text of a domain as token ids. Its next-token loss is that of the tokens after the query."""

    domain: str  # the adapter's name
    ids: tuple[int, ...]
    query: int  # so many of the first tokens

    @property
    def query_ids(self) -> tuple[int, ...]:
        return self.ids[: self.query]


def load_passages(domains: Sequence[Domain], data: Path, tokenizer, count: int) -> list[Passage]:
    """`count` passages of each domain, in the domains' order.

    A passage is whole rows with the domain's separator between them, cut to TOKENS tokens, since rows can be
    shorter than a query. No row is in two passages. Rows come in the order of their texts' digests, so the
    same folder gives the same passages. Raises ComposerError for a missing or broken file, and for fewer
    passages than asked for.
    """
    seen = adapters_texts(data)
    return [passage for domain in domains for passage in _of_domain(domain, data, tokenizer, count, seen)]


def _of_domain(domain: Domain, data: Path, tokenizer, count: int, seen: Collection[str]) -> Iterator[Passage]:
    for place, source in enumerate(domain.sources):
        wanted = count // len(domain.sources) + (place < count % len(domain.sources))
        rows, made = held_out_rows(source, data, seen), 0
        while made < wanted:
            ids = _next(rows, domain.separator, tokenizer)
            if ids is None:
                raise ComposerError(
                    f"{source.file} has only {made} passages of {TOKENS} tokens labelled {source.label} that "
                    f"no adapter saw; give a smaller --per-domain (at most {made * len(domain.sources)})."
                )
            yield Passage(domain.adapter, ids, QUERY)
            made += 1


def held_out_rows(source: Source, data: Path, seen: Collection[str]) -> Iterator[str]:
    """The texts of a source that no adapter saw, each once, in the order of their digests.

    seen: normalised texts that adapters may be trained on. Raises ComposerError as read_file.
    """
    texts = {
        normal(row.text): row.text
        for row in read_file(data, source.file, source.where)
        if row.label == source.label and (not source.judge_side or side(row.text) == "judge")
    }
    held_out = (text for key, text in texts.items() if key not in seen)
    return iter(sorted(held_out, key=lambda text: hashlib.sha256(text.encode()).digest()))


def _next(rows: Iterator[str], separator: str, tokenizer) -> tuple[int, ...] | None:
    """The ids of the next passage; None where the rows do not suffice."""
    text = ""
    for row in rows:
        text += (separator if text else "") + row
        ids = encode_prompt(tokenizer, text, "plain")
        if len(ids) >= TOKENS:
            return tuple(ids[:TOKENS])
    return None

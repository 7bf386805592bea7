"""The domains that have held-out texts, and which of them the test is of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message


@dataclass(frozen=True)
class Source:
    """Held-out rows of a domain: a gzipped JSON Lines file of the data folder."""

    file: str
    label: str
    # Only the rows that composer.training.data.side() gives to judges: of files that adapters are trained on.
    judge_side: bool = False
    # A row's field -> the value it must have.
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Domain:
    """Texts of one kind, and the adapter that was trained on that kind."""

    adapter: str
    # Each gives the same number of passages.
    sources: tuple[Source, ...]
    # Between two rows of a passage, as in the adapter's training.
    separator: str = " "


def _topic(name: str) -> Domain:
    return Domain(name, (Source("ag_news/train.jsonl.gz", name, judge_side=True),))


def _mood(name: str) -> Domain:
    return Domain(name, (Source("sst_cased/test.jsonl.gz", name), Source("yelp_short/test.jsonl.gz", name)))


def _formal(genre: str) -> Source:
    return Source("formality_pavlick/test.jsonl.gz", "formal", where={"genre": genre})


# Another domain is one more entry here.
DOMAINS: Mapping[str, Domain] = {
    domain.adapter: domain
    for domain in (
        *map(_topic, ("world", "sports", "business", "sci-tech")),
        Domain("poetic", (Source("gutenberg_poetry/test.jsonl.gz", "poem"),), "\n"),
        Domain("question", (Source("questions/test.jsonl.gz", "question"),)),
        Domain(
            "archaic",
            (
                Source("bible_styles/test.jsonl.gz", "archaic_kjv"),
                Source("shakespeare/test.jsonl.gz", "shakespearean"),
            ),
        ),
        Domain("polite", (Source("politeness_stanford/test.jsonl.gz", "polite"),)),
        Domain("formal", (_formal("blog"), _formal("email"))),
        Domain("simple", (Source("onestop_english/test.jsonl.gz", "elementary"),), "\n\n"),
        *map(_mood, ("positive", "negative")),
    )
}
# Kinds of text that a reader tells apart. Formal and simple texts are about what the four topics are about,
# so that two adapters would be right, and a mood is a way of speaking about one thing (films, services).
EIGHT = ("world", "sports", "business", "sci-tech", "poetic", "question", "archaic", "polite")


def choose(names: Sequence[str] | None, available: Collection[str]) -> tuple[Domain, ...]:
    """The named domains (None: those of EIGHT that have an adapter), two or more.

    available: the adapters that there are. Raises ComposerError for an unknown domain, for one without its
    adapter, and for fewer than two.
    """
    if names is None:
        names = [name for name in EIGHT if name in available]
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in DOMAINS:
            raise ComposerError(unknown_name_message("domain", name, DOMAINS))
        if name not in available:
            raise ComposerError(f"The domain {name} needs an adapter of that name, which this base lacks.")
    if len(names) < 2:
        raise ComposerError(
            "The test needs two domains or more with an adapter each; name them with --domains, out of: "
            f"{', '.join(DOMAINS)}."
        )
    return tuple(DOMAINS[name] for name in names)

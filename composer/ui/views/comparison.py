"""Texts of one prompt under several compositions, and what can be measured on them. No widgets here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.evaluation.judges.ngram_judge import NgramJudge
from composer.evaluation.metrics import bootstrap, distinct
from composer.methods import METHODS
from composer.ui.runners.budgets import Usage
from composer.ui.validation import Request
from composer.ui.views.comparison_files import files
from composer.ui.visitors import Own

MOST_COLUMNS = 8
LOWER_IS_BETTER = {"perplexity"}
LABELS = {"perplexity": "Perplexity", "distinct": "Distinct-2", "speed": "Tokens/s"}
HINTS = {
    "perplexity": "Of the texts under the base: lower is more fluent.",
    "distinct": "Share of different word pairs: lower repeats itself.",
    "speed": "Tokens a second, all columns at once.",
}


@dataclass(frozen=True)
class Column:
    """One composition of the comparison."""

    title: str
    composition: Composition
    # Of its adapters.
    colors: tuple[str, ...]


def make_columns(
    composition: Composition, methods: Sequence[str], legend: Mapping[str, Mapping[str, str]]
) -> tuple[Column, ...]:
    """The base, each adapter in use alone, and the composition by each method.

    legend: adapter name -> label and color. Raises ComposerError where there is nothing to compare or too
    much.
    """
    weights = {name: weight for name, weight in composition.weights.items() if weight}
    if not weights:
        raise ComposerError(
            "Every slider is at 0. Move one under Compose, or click a preset, and compare again."
        )
    colors = {name: legend[name]["color"] for name in weights}
    columns = [Column("Base", Composition(), ())]
    if len(weights) > 1:
        columns += [
            Column(
                f"{legend[name]['label']} alone",
                replace(composition, weights={name: weight}, method="sum", schedule=_of(composition, name)),
                (colors[name],),
            )
            for name, weight in weights.items()
        ]
    columns += [
        Column(METHODS[name].label, replace(composition, method=name), tuple(colors.values()))
        for name in methods
    ]
    if len(columns) > MOST_COLUMNS:
        raise ComposerError(
            f"That makes {len(columns)} columns, and {MOST_COLUMNS} fit; untick a method or zero a slider."
        )
    return tuple(columns)


def _of(composition: Composition, name: str) -> dict:
    return {name: composition.schedule[name]} if name in composition.schedule else {}


@dataclass
class Texts:
    """What one column has brought."""

    texts: list[str]
    counts: list[int]
    seconds: list[float]
    # The first token came after so many seconds.
    first: list[float]
    perplexities: list[float | None]
    fault: str = ""
    # The place of the text that best-of-n keeps.
    likeliest: int | None = None

    @property
    def leading(self) -> int:
        """The place of the text that stands for the column."""
        return self.likeliest or 0


@dataclass
class Comparison:
    """A comparison from its first token to its scores."""

    prompt: str
    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    sampling: Sampling
    judges: tuple[NgramJudge, ...]
    legend: Mapping[str, Mapping[str, str]]
    # The visitor's adapters in use.
    added: tuple[Own, ...] = ()
    usage: Usage = field(default_factory=Usage)
    own: list[Texts] = field(default_factory=list)
    scored: bool = False

    def __post_init__(self) -> None:
        many = len(self.seeds)
        self.own = [
            Texts([""] * many, [0] * many, [0.0] * many, [0.0] * many, [None] * many) for _ in self.columns
        ]

    @classmethod
    def of(
        cls,
        request: Request,
        methods: Collection[str],
        count: int,
        judges: tuple[NgramJudge, ...],
        legend: Mapping[str, Mapping[str, str]],
    ) -> Comparison:
        """The request by each of these methods, with `count` seeds from its own on.

        legend: adapter name -> label and color. Raises ComposerError as `make_columns`.
        """
        seeds = tuple((request.sampling.seed + place) % 2**32 for place in range(count))
        columns = make_columns(request.composition, [name for name in METHODS if name in methods], legend)
        return cls(
            request.prompt,
            columns,
            seeds,
            request.sampling,
            judges,
            legend,
            added=request.added,
            usage=request.usage,
        )

    @property
    def requests(self) -> list[Request]:
        """A request for each column and seed, column by column."""
        return [
            Request(
                self.prompt,
                column.composition,
                replace(self.sampling, seed=seed),
                added=self.added,
                usage=self.usage,
            )
            for column in self.columns
            for seed in self.seeds
        ]

    def add(self, index: int, news: Step | str) -> None:
        """One more step of a request, or the sentence that ended it."""
        column, place = divmod(index, len(self.seeds))
        own = self.own[column]
        if isinstance(news, str):
            own.fault = news
            return
        own.texts[place], own.counts[place], own.seconds[place] = news.text, news.index + 1, news.seconds
        if news.index == 0:
            own.first[place] = news.seconds

    @property
    def finished_texts(self) -> list[tuple[str, str]]:
        """(prompt, continuation) of every text, in the order of the requests."""
        return [(self.prompt, text) for own in self.own for text in own.texts]

    def score(self, perplexities: Sequence[float | None]) -> None:
        """Take the perplexities of `finished_texts`."""
        many = len(self.seeds)
        for place, own in enumerate(self.own):
            own.perplexities = list(perplexities[place * many : (place + 1) * many])
        self.scored = True

    @property
    def mixes(self) -> list[int]:
        """The places of the columns in which every adapter in use takes part."""
        return [
            place
            for place, column in enumerate(self.columns)
            if sum(weight != 0 for weight in column.composition.weights.values()) == len(self._in_use) > 0
        ]

    def column_request(self, place: int) -> Request:
        """A request of this column, with the first seed."""
        return self.requests[place * len(self.seeds)]

    def choose(self, place: int, scores: Sequence[float]) -> None:
        """Take a column's best text by their scores, see composer.evaluation.best_of_n."""
        self.own[place].likeliest = max(range(len(scores)), key=scores.__getitem__)

    def seed_of(self, place: int) -> int:
        """The seed of the text that leads a column."""
        return self.seeds[self.own[place].leading]

    # --- what is shown -------------------------------------------------------------------------

    def message(self, sentence: str = "", busy: bool = False) -> dict[str, object]:
        """The value of the results. busy: more will come."""
        rows = self.rows() if self.scored else []
        best = self._best_column(rows)
        return {
            "prompt": self.prompt,
            "message": sentence,
            "busy": busy,
            "columns": [
                {
                    "title": column.title,
                    "colors": list(column.colors),
                    "text": own.texts[own.leading],
                    "texts": own.texts if len(self.seeds) > 1 else [],
                    "likeliest": own.likeliest,
                    "fault": own.fault,
                    "best": place == best,
                    "cells": [
                        {
                            "label": row.label,
                            "hint": row.hint,
                            "value": row.shown[place],
                            "color": row.colors[place],
                            "best": place in row.best,
                        }
                        for row in rows
                    ],
                }
                for place, (column, own) in enumerate(zip(self.columns, self.own, strict=True))
            ],
            "files": files(self, rows) if self.scored else {},
        }

    def rows(self) -> list[Row]:
        """The scores: a row for each judge and measure, a cell for each column."""
        judged = [self._judged(judge) for judge in self.judges]
        perplexity = [
            self._mean([each for each in own.perplexities if each is not None], ".1f") for own in self.own
        ]
        speeds = [_speed(own) for own in self.own]
        distinctness = [distinct(own.texts) for own in self.own]
        return [
            *judged,
            self._row("perplexity", perplexity),
            self._row("distinct", [(each, "" if each is None else f"{each:.2f}") for each in distinctness]),
            self._row("speed", [(each, "" if each is None else f"{each:.0f}") for each in speeds]),
        ]

    @property
    def _in_use(self) -> set[str]:
        """The adapters with a weight in the last column, which has all of them."""
        return {name for name, weight in self.columns[-1].composition.weights.items() if weight}

    @property
    def wanted(self) -> set[str]:
        """Those with a positive weight."""
        weights = self.columns[-1].composition.weights
        return {name for name in self._in_use if weights[name] > 0}

    def _judged(self, judge: NgramJudge) -> Row:
        wanted = [label for label in judge.labels if label in self.wanted]
        shown, values, colors = [], [], []
        for own in self.own:
            texts = [self.prompt + text for text in own.texts if text]
            shares = [judge.shares(text) for text in texts]
            if not shares:
                shown.append("")
                values.append(None)
                colors.append("")
                continue
            if len(self.seeds) == 1 or not wanted:
                likeliest = [max(each, key=each.get) for each in shares]
                label = max(sorted(set(likeliest)), key=likeliest.count)
                rate = np.mean([each[label] for each in shares])
                shown.append(f"{self.legend[label]['label']} {rate:.0%}")
                colors.append(self.legend[label]["color"])
            else:
                right = [float(max(each, key=each.get) in wanted) for each in shares]
                shown.append(_with_interval(right, ".0%"))
                colors.append("")
            values.append(
                float(np.mean([sum(each[label] for label in wanted) for each in shares])) if wanted else None
            )
        label = judge.attribute.capitalize() + (" right" if len(self.seeds) > 1 and wanted else "")
        hint = f"The judge {judge.name}, right {judge.accuracy:.0%} of the time on held-out texts."
        return Row(label, hint, tuple(shown), tuple(colors), _best(values, False), tuple(values))

    def _row(self, name: str, cells: Sequence[tuple[float | None, str]]) -> Row:
        values, shown = [value for value, _ in cells], [text for _, text in cells]
        best = () if name == "speed" else _best(values, name in LOWER_IS_BETTER)
        return Row(LABELS[name], HINTS[name], tuple(shown), ("",) * len(cells), best, tuple(values))

    def _mean(self, values: Sequence[float], form: str) -> tuple[float | None, str]:
        if not values:
            return None, ""
        if len(self.seeds) == 1:
            return values[0], format(values[0], form)
        return float(np.mean(values)), _with_interval(values, form)

    def _best_column(self, rows: Sequence[Row]) -> int:
        """The column whose texts every judge finds right with the lowest perplexity; -1 where none is.

        Only mixes are compared: an adapter alone was not asked for the others' attributes.
        """
        if not rows or not self.wanted:
            return -1
        judges = [
            row for row, judge in zip(rows, self.judges, strict=False) if set(judge.labels) & self.wanted
        ]
        (perplexity,) = [row.values for row in rows if row.label == LABELS["perplexity"]]
        right = [place for place in self.mixes if all((row.values[place] or 0) > 0.5 for row in judges)]
        return min((p for p in right if perplexity[p] is not None), key=lambda p: perplexity[p], default=-1)


@dataclass(frozen=True)
class Row:
    """A measure: its cells, one for each column."""

    label: str
    hint: str
    shown: tuple[str, ...]
    colors: tuple[str, ...]
    # The columns with the best value.
    best: tuple[int, ...]
    values: tuple[float | None, ...]


def _best(values: Sequence[float | None], lowest: bool) -> tuple[int, ...]:
    known = [value for value in values if value is not None]
    if len(known) < 2 or min(known) == max(known):
        return ()
    target = min(known) if lowest else max(known)
    return tuple(place for place, value in enumerate(values) if value == target)


def _speed(own: Texts) -> float | None:
    tokens = sum(count - 1 for count in own.counts if count > 1)
    seconds = sum(
        last - first for last, first, n in zip(own.seconds, own.first, own.counts, strict=True) if n > 1
    )
    return tokens / seconds if seconds > 0 else None


def _with_interval(values: Sequence[float], form: str) -> str:
    """The mean and its 95% bootstrap interval over the texts."""
    low, high = bootstrap([[value] for value in values])
    return f"{np.mean(values):{form}} [{low:{form}}, {high:{form}}]"

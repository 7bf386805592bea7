"""How much is right: texts of one mix while one weight, or two, are swept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

from composer.core.composition import WEIGHT_RANGE, Composition
from composer.core.errors import ComposerError, check_int, check_number
from composer.evaluation.dose.sweet_spot import DoseRow, SweetSpot, sweet_spot
from composer.evaluation.judges.ngram_judge import Judge
from composer.evaluation.metrics import Interval, mean, median, over_prompts, repetition
from composer.evaluation.style_markers import STYLE_MARKERS

MOST_WEIGHTS = 25
MOST_TEXTS = 1000


@dataclass(frozen=True)
class Axis:
    """One adapter's weights, one after another."""

    adapter: str
    weights: tuple[float, ...]

    @classmethod
    def between(cls, adapter: str, low: object, high: object, count: object) -> Axis:
        """`count` weights at equal distances. Raises ComposerError for what is no range."""
        first = check_number("The first weight", low, *WEIGHT_RANGE)
        last = check_number("The last weight", high, *WEIGHT_RANGE)
        number = check_int("The number of weights", count, 2, MOST_WEIGHTS)
        if not first < last:
            raise ComposerError("The first weight must be lower than the last one.")
        step = (last - first) / (number - 1)
        return cls(adapter, tuple(round(first + step * place, 4) for place in range(number)))


@dataclass(frozen=True)
class Decider:
    """Says whether a text has an adapter's attribute."""

    adapter: str
    # By what: a judge's name, or a sign that is looked for.
    means: str
    decide: Callable[[str, str], bool]  # of prompt and continuation


def make_deciders(judges: Sequence[Judge]) -> dict[str, Decider]:
    """By adapter: the judge that has its label, or else its style's sign."""
    found = {
        each.style: Decider(each.style, each.help, _marked(each.pattern.search)) for each in STYLE_MARKERS
    }
    return found | {
        label: Decider(label, judge.name, _judged(judge, label)) for judge in judges for label in judge.labels
    }


def _marked(search: Callable[[str], object]) -> Callable[[str, str], bool]:
    return lambda prompt, continuation: bool(search(continuation))


def _judged(judge: Judge, label: str) -> Callable[[str, str], bool]:
    return lambda prompt, continuation: judge([prompt + continuation])[0] == label


@dataclass(frozen=True)
class DoseTask:
    """One text of a sweep."""

    # The place among the points.
    point: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class DosePlan:
    """A sweep over one adapter's weights, or over every pair of two adapters' weights."""

    composition: Composition
    axes: tuple[Axis, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        names = [axis.adapter for axis in self.axes]
        if len(self.axes) not in (1, 2) or len(set(names)) < len(names):
            raise ComposerError("Sweep one adapter, or two different ones.")
        if len(self.tasks) > MOST_TEXTS:
            raise ComposerError(
                f"That makes {len(self.tasks)} texts and at most {MOST_TEXTS} are written; choose fewer "
                "weights, prompts or texts."
            )

    @cached_property
    def points(self) -> tuple[tuple[float, ...], ...]:
        """The weights of each point, in the order of the axes; the last axis runs first."""
        return tuple(product(*(axis.weights for axis in self.axes)))

    @cached_property
    def tasks(self) -> list[DoseTask]:
        """All texts, ordered so that every point soon has some."""
        return [
            DoseTask(point, prompt, seed)
            for seed in self.seeds
            for prompt in self.prompts
            for point in range(len(self.points))
        ]

    def composition_at(self, point: int) -> Composition:
        """The mix with the point's weights."""
        swept = dict(zip((axis.adapter for axis in self.axes), self.points[point], strict=True))
        return replace(self.composition, weights={**self.composition.weights, **swept})


@dataclass
class Dose:
    """The texts of a sweep as they come."""

    plan: DosePlan
    deciders: Mapping[str, Decider]
    texts: dict[int, tuple[str, float | None]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    # By whoever asked for it; nothing more is shown.
    stopped: bool = False
    _right: dict[int, dict[str, bool]] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """The swept adapters and those that the mix adds, as far as somebody can decide on them."""
        wanted = [name for name, weight in self.plan.composition.weights.items() if weight > 0]
        named = dict.fromkeys([*(axis.adapter for axis in self.plan.axes), *wanted])
        return tuple(name for name in named if name in self.deciders)

    def add(self, task: int, text: str, perplexity: float | None) -> None:
        """Take the text of a task."""
        prompt = self.plan.tasks[task].prompt
        self.texts[task] = text, perplexity
        self._right[task] = {name: self.deciders[name].decide(prompt, text) for name in self.targets}

    def rows(self) -> list[DoseRow]:
        """A row for each point."""
        return [self._row(point, weights) for point, weights in enumerate(self.plan.points)]

    def _row(self, point: int, weights: tuple[float, ...]) -> DoseRow:
        tasks = self.plan.tasks
        own = [task for task in self.texts if tasks[task].point == point]

        def share(names: Sequence[str]) -> Interval | None:
            return over_prompts(
                (tasks[task].prompt, float(all(self._right[task][name] for name in names))) for task in own
            )

        return DoseRow(
            weights,
            len(own),
            {name: share([name]) for name in self.targets},
            share(self.targets) if self.targets else None,
            median(self.texts[task][1] for task in own),
            mean(repetition(self.texts[task][0]) for task in own),
        )

    def sweet_spot(self, labels: Mapping[str, str] | None = None) -> SweetSpot:
        """The weights to choose, by the texts so far. labels: how adapters are called."""
        swept = [axis.adapter for axis in self.plan.axes]
        called = {name: (labels or {}).get(name, name) for name in (*swept, *self.targets)}
        return sweet_spot(self.rows(), swept, self.targets, called)

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Head and rows of numbers, for a file."""
        head = [f"weight of {axis.adapter}" for axis in self.plan.axes]
        for name in self.targets:
            head += [f"{name} right", f"{name} low", f"{name} high"]
        head += ["all right", "all low", "all high", "perplexity", "repetition", "texts"]
        return head, [
            [
                *row.weights,
                *(number for name in self.targets for number in _numbers(row.right[name])),
                *_numbers(row.together),
                row.perplexity,
                row.repetition,
                row.texts,
            ]
            for row in self.rows()
        ]


def _numbers(interval: Interval | None) -> tuple[float | None, ...]:
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)

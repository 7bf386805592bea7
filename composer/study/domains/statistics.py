"""From losses and shares to what can be said of them. Intervals: 95%, a bootstrap over passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from composer.evaluation.metrics import Interval, over_prompts
from composer.study.domains.measure import DomainMeasurement
from composer.study.domains.queries import MEASURES
from composer.study.domains.settings import SETTINGS
from composer.study.statistics.permutation_test import PermutationResult, follow

DRAWS = 2000


@dataclass(frozen=True)
class WaySummary:
    """One way to read the passages, over all domains and by domain."""

    label: str
    # As Setting.total; "" where no adapters are composed.
    total: str
    # Mean loss, nats a token.
    loss: float
    # Paired differences; negative is better.
    minus_base: Interval
    minus_average: Interval
    # Share of the way from the base's loss to the right adapter's; None where that is no gain.
    recovered: Interval | None
    # Domain -> its loss minus the base's.
    domains: Mapping[str, Interval]


@dataclass(frozen=True)
class QueryTest:
    """Whether gates made for a query do better than others. Differences own minus other; negative: better."""

    label: str
    own: float
    minus_blind: Interval
    minus_permuted: Interval


@dataclass(frozen=True, eq=False)
class ShareProfile:
    """What a measure gives the right adapter."""

    label: str
    # Mean over layers.
    share: Interval
    # Share of passages whose adapter with the largest share, mean over layers, is the right one.
    top1: Interval
    # By layer, [L]: the mean share, its interval, and the share of passages whose largest is right.
    by_layer: np.ndarray
    low: np.ndarray
    high: np.ndarray
    top1_by_layer: np.ndarray
    # Domain x adapter, [N, N]: the mean share over layers, and how many passages an adapter is largest for.
    mean: np.ndarray
    confusion: np.ndarray
    # Does the right adapter get more from its own domain's queries than from others'?
    follows: PermutationResult
    # Of the share with the adapters' weight norms and with their output norms, by layer; mean over passages.
    weight_correlation: float | None
    output_correlation: float | None
    # How much of the share's variance is the mean over all queries, by layer and adapter: 1 means that it
    # does not depend on the query.
    fixed: float


def summaries(found: DomainMeasurement) -> list[WaySummary]:
    """The references, then every setting, those with the lowest loss first."""
    labels = {SETTINGS[name].label: (SETTINGS[name].total, loss) for name, loss in found.composed.items()}
    references = {
        "Base": found.base,
        "The right adapter alone": found.right,
        "Best adapter in hindsight, per text": found.alone.min(axis=1),
        "Best setting in hindsight, per text": np.min(list(found.composed.values()), axis=0),
        "One adapter alone, mean of all": found.alone.mean(axis=1),
        **picked(found),
    }
    ways = {**{label: ("", loss) for label, loss in references.items()}, **labels}
    rows = [_summary(label, total, loss, found) for label, (total, loss) in ways.items()]
    split = len(references)
    return [*rows[:split], *sorted(rows[split:], key=lambda row: row.loss)]


def picked(found: DomainMeasurement) -> dict[str, np.ndarray]:
    """Label -> [P]: the loss under the one adapter that a share ranks first, alone at weight 1."""
    rows = {}
    for name, shares in found.shares.items():
        mean = shares.mean(axis=1)  # [P, N]
        rows[f"Picked: {MEASURES[name]}"] = _at(found.alone, mean.argmax(axis=1))
        relative = mean / np.maximum(mean.mean(axis=0), 1e-12)
        rows[f"Picked: {MEASURES[name]}, over its mean"] = _at(found.alone, relative.argmax(axis=1))
    return rows


def query_tests(found: DomainMeasurement) -> list[QueryTest]:
    return [
        QueryTest(
            SETTINGS[name].label,
            float(found.composed[name].mean()),
            interval(found.composed[name] - found.blind[name]),
            interval(found.composed[name] - found.permuted[name]),
        )
        for name in found.blind
    ]


def best_way(ways: Sequence[WaySummary]) -> WaySummary:
    """The lowest loss among the ways that compose all adapters. Raises ValueError where there is none."""
    return min((way for way in ways if way.total), key=lambda way: way.loss)


def profiles(found: DomainMeasurement) -> dict[str, ShareProfile]:
    """Measure -> its profile."""
    outputs = found.shares["contribution"]
    return {name: _profile(MEASURES[name], shares, outputs, found) for name, shares in found.shares.items()}


def interval(values: np.ndarray) -> Interval:
    """The mean of [P] values, one a passage."""
    return over_prompts([(str(place), float(value)) for place, value in enumerate(values)])


def recovered(base: np.ndarray, way: np.ndarray, right: np.ndarray) -> Interval | None:
    """(mean base - mean way) / (mean base - mean right) of losses [P], with its interval over passages.

    None where the right adapter's own gain includes 0.
    """
    if interval(right - base).high >= 0:
        return None
    counts = _draws(len(base))  # [D, P]
    gains, gaps = counts @ (base - way), counts @ (base - right)  # [D]
    low, high = np.percentile(gains / gaps, [2.5, 97.5])
    return Interval(float((base - way).mean() / (base - right).mean()), float(low), float(high))


def _summary(label: str, total: str, loss: np.ndarray, found: DomainMeasurement) -> WaySummary:
    return WaySummary(
        label,
        total,
        float(loss.mean()),
        interval(loss - found.base),
        interval(loss - found.composed["average"]),
        recovered(found.base, loss, found.right),
        {
            name: interval((loss - found.base)[found.owners == place])
            for place, name in enumerate(found.names)
        },
    )


def _profile(label: str, shares: np.ndarray, outputs: np.ndarray, found: DomainMeasurement) -> ShareProfile:
    """shares, outputs: [P, L, N]."""
    shares, owners = shares.astype(np.float64), found.owners
    own = np.take_along_axis(shares, owners[:, None, None], axis=2)[..., 0]  # [P, L]
    drawn = _draws(len(own)) @ own / len(own)  # [D, L]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    mean = shares.mean(axis=1)  # [P, N]
    largest = mean.argmax(axis=1)
    count = len(found.names)
    confusion = np.zeros((count, count), int)
    np.add.at(confusion, (owners, largest), 1)
    norms = np.broadcast_to(_row_shares(found.norms), shares.shape)
    spread = ((shares - 1 / count) ** 2).sum()
    return ShareProfile(
        label,
        interval(own.mean(axis=1)),
        interval((largest == owners).astype(float)),
        own.mean(axis=0),
        low,
        high,
        (shares.argmax(axis=2) == owners[:, None]).mean(axis=0),
        np.stack([mean[owners == place].mean(axis=0) for place in range(count)]),
        confusion,
        follow(mean, owners.tolist()),
        _correlation(shares, norms),
        _correlation(shares, outputs),
        float(1 - ((shares - shares.mean(axis=0)) ** 2).sum() / spread) if spread > 0 else 1.0,
    )


def _correlation(shares: np.ndarray, others: np.ndarray) -> float | None:
    """Pearson's, over layers and adapters of a passage, mean over passages; None where none varies."""
    pairs = [
        np.corrcoef(one.ravel(), other.ravel())[0, 1]
        for one, other in zip(shares, others, strict=True)
        if np.ptp(one) > 0 and np.ptp(other) > 0
    ]
    return float(np.mean(pairs)) if pairs else None


def _row_shares(values: np.ndarray) -> np.ndarray:
    total = values.sum(axis=-1, keepdims=True)
    return np.divide(values, total, out=np.zeros_like(values), where=total > 0)


def _at(alone: np.ndarray, columns: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.take_along_axis(alone, np.asarray(columns)[:, None], axis=1)[:, 0]


def _draws(passages: int) -> np.ndarray:
    """[D, P]: how often each passage is drawn, as metrics.bootstrap draws them."""
    picks = np.random.default_rng(0).integers(passages, size=(DRAWS, passages))  # [D, P]
    counts = np.zeros((DRAWS, passages))
    np.add.at(counts, (np.arange(DRAWS)[:, None], picks), 1)
    return counts

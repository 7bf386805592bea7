"""What the test without judges found, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer.evaluation.metrics import Interval
from composer.study.domains.statistics import QueryTest, ShareProfile, WaySummary, best_way
from composer.study.domains.tables import signed


def in_short(
    names: Sequence[str],
    ways: Sequence[WaySummary],
    tests: Sequence[QueryTest],
    shares: Mapping[str, ShareProfile],
) -> list[str]:
    """What composing gains, whom KL's shares find, and for each kind of KL whether the query's own helps.

    names: of the domains. KL as published is the first kind. Raises LookupError or ValueError where a
    way or KL's shares are missing.
    """
    by_label = {way.label: way for way in ways}
    right = by_label["The right adapter alone"]
    best = best_way(ways)
    average, kl = by_label["Average"], shares["kl"]
    helps = _told(right.minus_base, "lowers", "raises", "is not shown to lower")

    def of_the_gap(way: WaySummary, gap: str) -> str:
        return f", {way.recovered.as_percent()}{gap}" if way.recovered else ""

    sentences = [
        f"The right adapter alone {helps} the base's loss of {by_label['Base'].loss:.3f}: "
        f"{signed(right.minus_base)} nats a token. The lowest of all ways to compose all "
        f"{len(names)}: {best.label}, {signed(best.minus_base)}{of_the_gap(best, ' of that gap')}; "
        f"the average: {signed(average.minus_base)}{of_the_gap(average, '')}.",
        f"KL's share for the right adapter is {kl.share.as_percent()}, chance {1 / len(names):.1%}; "
        f"it is the largest for {kl.top1.as_percent()} of the passages. {kl.fixed:.0%} of the shares' "
        "variance does not depend on the query.",
    ]
    sentences += [
        f"{test.label}: a query's own gates {_verdict(test.minus_blind)} the mean over all queries "
        f"({signed(test.minus_blind)} nats a token) and {_verdict(test.minus_permuted)} those of a query of "
        f"another domain ({signed(test.minus_permuted)})."
        for test in tests
    ]
    return sentences


def _verdict(gap: Interval) -> str:
    return _told(gap, "are better than", "are worse than", "are not shown to differ from")


def _told(gap: Interval, below: str, above: str, neither: str) -> str:
    """The word for a difference that lies below zero, above it, or beyond chance on neither side."""
    if not gap.excludes_zero:
        return neither
    return below if gap.high < 0 else above

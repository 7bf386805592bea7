"""The report's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer.core.document import DataTable
from composer.evaluation.metrics import Interval
from composer.study.domains import figures
from composer.study.domains.measure import DomainMeasurement
from composer.study.domains.statistics import QueryTest, ShareProfile, WaySummary


def ways_table(ways: Sequence[WaySummary]) -> DataTable:
    """A row per way, over all domains."""
    head = ("way", "scale", "loss", "minus base", "minus average", "gap recovered")
    rows = (
        (
            way.label,
            way.total,
            f"{way.loss:.4f}",
            signed(way.minus_base),
            signed(way.minus_average),
            "-" if way.recovered is None else way.recovered.as_percent(),
        )
        for way in ways
    )
    return DataTable(head, tuple(rows), words=2)


def domain_table(ways: Sequence[WaySummary], names: Sequence[str]) -> DataTable:
    """A row per way, a column per domain."""
    rows = (
        (way.label, *(signed(way.domains[name]) for name in names)) for way in ways if way.label != "Base"
    )
    return DataTable(("way", *names), tuple(rows))


def alone_table(found: DomainMeasurement) -> DataTable:
    """Mean loss minus the base's: a row per domain, a column per adapter alone."""
    gaps = found.alone - found.base[:, None]  # [P, N]
    rows = (
        (name, *(f"{gap:+.3f}" for gap in gaps[found.owners == place].mean(axis=0)))
        for place, name in enumerate(found.names)
    )
    return DataTable(("domain", *found.names), tuple(rows))


def test_table(tests: Sequence[QueryTest]) -> DataTable:
    """A row per setting that is tested."""
    rows = ((t.label, f"{t.own:.4f}", signed(t.minus_blind), signed(t.minus_permuted)) for t in tests)
    return DataTable(("way", "own loss", "minus domain-blind mean", "minus another domain's"), tuple(rows))


def share_table(shares: Mapping[str, ShareProfile]) -> DataTable:
    """A row per measure."""
    head = (
        "share made of",
        "right adapter",
        "largest",
        "gain",
        "p",
        "not of the query",
        "with weight norms",
        "with output norms",
    )
    rows = (
        (
            each.label,
            each.share.as_percent(),
            each.top1.as_percent(),
            f"{100 * each.follows.gain:+.1f} points",
            f"{each.follows.p:.4f}",
            f"{each.fixed:.0%}",
            _correlation(each.weight_correlation),
            _correlation(each.output_correlation),
        )
        for each in shares.values()
    )
    return DataTable(head, tuple(rows))


def confusion_table(profile: ShareProfile, names: Sequence[str]) -> DataTable:
    """Passages: a row per domain, a column per adapter."""
    rows = ((name, *map(str, row)) for name, row in zip(names, profile.confusion.tolist(), strict=True))
    return DataTable(("domain", *names), tuple(rows))


def layer_table(shares: Mapping[str, ShareProfile]) -> DataTable:
    """A row per layer, two columns per measure that varies over layers."""
    drawn = [each for name, each in shares.items() if name not in figures.FLAT]
    head = ("layer", *(f"{each.label}: {word}" for each in drawn for word in ("share", "largest")))
    rows = (
        (
            str(layer + 1),
            *(
                cell
                for each in drawn
                for cell in (
                    Interval(each.by_layer[layer], each.low[layer], each.high[layer]).as_percent(),
                    f"{each.top1_by_layer[layer]:.1%}",
                )
            ),
        )
        for layer in range(len(drawn[0].by_layer))
    )
    return DataTable(head, tuple(rows))


def signed(found: Interval) -> str:
    """With its sign and its interval, in nats a token."""
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"

"""Adapters made of others, a site at a time, so that whoever decodes for many can see to them between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from composer.adapters.bank import Adapter
from composer.core.composition import Composition
from composer.methods import Method

T = TypeVar("T")
# Has a piece of work done: here and now, or between two passes of somebody's decoding.
Executor = Callable[[Callable[[], T]], T]


def run_inline(work: Callable[[], T]) -> T:
    return work()


def make(
    method: Method,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    composition: Composition,
    through: Executor = run_inline,
) -> list:
    """What a method makes of adapters, as composer.methods.merging.Merged: one merged, or each calibrated.

    The notes of a merged adapter are means over the sites that have something to note. Raises ComposerError
    for adapters that do not fit each other, and numbers that overflow.
    """
    # Merging needs torch and PEFT's functions, which a start without it should not pay.
    from composer.methods.merging import MERGES, Merged, Options, calibrate, merge

    if method.merge is None:
        whole: list[dict] = [{} for _ in adapters]
        for own in _sites(adapters):
            for adapter, calibrated in zip(whole, through(lambda own=own: calibrate(own)), strict=True):
                adapter.update(calibrated)
        return [Merged(adapter) for adapter in whole]
    options = Options(
        rank=composition.rank, density=composition.density, core=composition.core, omega=composition.omega
    )
    rule, made, notes = MERGES[method.merge], {}, defaultdict(list)
    for place, own in enumerate(_sites(adapters)):
        # What DARE drops at one site has nothing to do with what it drops at the next.
        here = replace(options, seed=place)
        merged = through(lambda own=own, here=here: merge(rule, own, weights, here))
        made.update(merged.adapter)
        for name, value in merged.notes.items():
            notes[name].append(value)
    return [Merged(made, {name: sum(values) / len(values) for name, values in notes.items()})]


def _sites(adapters: Sequence[Adapter]) -> Iterator[list[Adapter]]:
    """Every adapter at one site after another; empty where it has none there."""
    for path in dict.fromkeys(path for adapter in adapters for path in adapter):
        yield [{path: adapter[path]} if path in adapter else {} for adapter in adapters]

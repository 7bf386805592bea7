"""Merges or calibrates adapters, a few sites at a time, so that a server can decode between the pieces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from composer.adapters.bank import Adapter, LoraFactors
from composer.core.composition import Composition
from composer.engine.execution import Executor, in_turn, run_inline
from composer.methods import Method

if TYPE_CHECKING:
    from composer.methods.merging import Merged


def materialize(
    method: Method,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    weights_at: Callable[[str], Sequence[float]],
    composition: Composition,
    execute: Executor = run_inline,
) -> list[Merged]:
    """One merged adapter, or each adapter calibrated, as the method says.

    weights: the sliders'. weights_at: the weights at a site, which curves over the layers can make differ. An
    adapter whose weight is 0 at a site takes no part in a merge there.

    The notes of a merged adapter are over all its sites: "kept" weighted by what was intended at each, others
    as means over the sites that have them. Raises ComposerError for adapters
    that cannot be merged with each other, and for numbers that overflow.
    """
    # Imported late: a start without a merge does not load PEFT's functions.
    from composer.methods.merging import CALIBRATIONS, MERGES, Merged, Options, merge

    options = Options(
        rank=composition.rank,
        density=composition.density,
        core=composition.core,
        omega=composition.omega,
        floor=composition.floor,
        projection=composition.projection,
    )
    if method.merge is None:
        whole: list[dict[str, LoraFactors]] = [{} for _ in adapters]
        calibrate, kept = CALIBRATIONS[method.calibration].rule, strongest(weights)
        calibrations = (partial(calibrate, own, kept, options) for own in _sites(adapters))
        for made_here in in_turn(calibrations, execute):
            for adapter, calibrated in zip(whole, made_here, strict=True):
                adapter.update(calibrated)
        return [Merged(adapter) for adapter in whole]
    rule, made = MERGES[method.merge], dict[str, LoraFactors]()
    notes = defaultdict[str, list[tuple[float, float]]](list)

    def merges() -> Iterator[Callable[[], Merged]]:
        for place, own in enumerate(_sites(adapters)):
            (path,) = {path for adapter in own for path in adapter}
            if any(here := weights_at(path)):
                # DARE draws anew at each site.
                yield partial(merge, rule, own, here, replace(options, seed=place))

    for merged in in_turn(merges(), execute):
        made.update(merged.adapter)
        for name, value in merged.notes.items():
            notes[name].append((value, merged.energy if name == "kept" else 1.0))
    return [Merged(made, {name: _mean(values) for name, values in notes.items()})]


def strongest(weights: Sequence[float]) -> int:
    """The index of the weight of the greatest size; of equal ones the first."""
    return max(range(len(weights)), key=lambda place: abs(weights[place]))


def _mean(values: Sequence[tuple[float, float]]) -> float:
    """The weighted mean of (value, weight) pairs."""
    return sum(value * weight for value, weight in values) / sum(weight for _, weight in values)


def _sites(adapters: Sequence[Adapter]) -> Iterator[list[Adapter]]:
    """For each site, every adapter's factors there; empty for an adapter without that site."""
    for path in dict.fromkeys(path for adapter in adapters for path in adapter):
        yield [{path: adapter[path]} if path in adapter else {} for adapter in adapters]

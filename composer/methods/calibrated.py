"""Pico as methods: directions that the adapters share are damped first, then one of the sums adds them.

Not contrast: what an adapter and its opposites share is what it is there to subtract.
"""

from __future__ import annotations

from dataclasses import replace

from composer.methods.adaptive import KL
from composer.methods.base import Method
from composer.methods.output_sums import AVERAGE, BALANCED, STATIC, SUM

CROWDED = "Crowded in B-Space, 2026, arXiv 2604.16826 (formula from its authors' released code)"


def _calibrated(method: Method, label: str, then: str) -> Method:
    """The method, of adapters that are calibrated against each other first. label, then: what follows."""
    plain = method is SUM
    return replace(
        method,
        name="pico" if plain else f"pico-{method.name}",
        label=f"Pico, then {label}",
        help=f"Damps the directions that the adapters' outputs share, then {then}.",
        family="Calibrated",
        source=CROWDED if plain else f"this project, on {CROWDED} and {method.source}",
        calibrated=True,
    )


CALIBRATED = (
    _calibrated(SUM, "sum", "adds them"),
    _calibrated(AVERAGE, "average", "adds them, divided by how many take part"),
    _calibrated(STATIC, "static fusion", "adds them with sliders whose sizes add up to 1"),
    _calibrated(BALANCED, "norm-balanced sum", "adds them equally loud"),
    _calibrated(KL, "KL fusion", "lets the prompt share out the layers"),
)

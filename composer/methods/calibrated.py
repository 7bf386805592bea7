"""Pico as methods: directions that the adapters share are damped first, then another method adds them.

There is none with contrast: what an adapter and its opposites share is what contrast is meant to subtract.
"""

from __future__ import annotations

from dataclasses import replace

from composer.methods.adaptive import KL
from composer.methods.base import Method
from composer.methods.output_sums import AVERAGE, BALANCED, STATIC, SUM

PICO = (
    "B_i ← U diag(1 / (1 + (T-1) c_k)) Uᵀ B_i, [B_1 … B_T] = U σ Vᵀ, c_k = σ_k² / Σ σ², "
    "each back at its own norm"
)
CROWDED = "Crowded in B-Space, 2026, arXiv 2604.16826 (formula from its authors' released code)"


def _calibrated(method: Method, label: str, then: str) -> Method:
    """The method, applied to adapters that are calibrated first. label, then: what follows in its words."""
    plain = method is SUM
    return replace(
        method,
        name="pico" if plain else f"pico-{method.name}",
        label=f"Pico, then {label}",
        help=f"Damps the directions that the adapters' outputs share, then {then}.",
        formula=f"{PICO}; then {'the sum' if plain else method.label}",
        family="Calibrated",
        source=CROWDED if plain else f"this project, on {CROWDED} and {method.source}",
        calibrated=True,
    )


CALIBRATED = (
    _calibrated(SUM, "sum", "adds them"),
    _calibrated(AVERAGE, "average", "adds them, divided by their number"),
    _calibrated(STATIC, "static fusion", "adds them with weights whose sizes add up to 1"),
    _calibrated(BALANCED, "norm-balanced sum", "adds them with equal contributions"),
    _calibrated(KL, "KL fusion", "weights them by the prompt, per layer"),
)

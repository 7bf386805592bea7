"""Calibrations as methods: the adapters are changed against each other first, then another method adds them.

There is no Pico with contrast: what an adapter and its opposites share is what contrast is meant to subtract.
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


NP_LORA = replace(
    SUM,
    name="np-lora",
    label="NP-LoRA, then sum",
    help="Keeps the adapter with the greatest weight; the others no longer respond to what it responds to.",
    formula="A_c ← A_c (I - u/(1+u) V Vᵀ), V the right singular vectors of the kept adapter's B A, u the "
    "projection; then the sum",
    source="NP-LoRA, 2025, arXiv 2511.11051 (made for images; formula known second-hand; of more than two "
    "adapters, that the others are all projected is ours)",
    family="Calibrated",
    parameters=("projection",),
    calibrated=True,
    calibration="np-lora",
)

CALIBRATED = (
    _calibrated(SUM, "sum", "adds them"),
    _calibrated(AVERAGE, "average", "adds them, divided by their number"),
    _calibrated(STATIC, "static fusion", "adds them with weights whose sizes add up to 1"),
    _calibrated(BALANCED, "norm-balanced sum", "adds them with equal contributions"),
    _calibrated(KL, "KL fusion", "weights them by the prompt, per layer"),
    NP_LORA,
)

"""Pico as methods: directions that the adapters share are damped first, then one of the sums adds them."""

from __future__ import annotations

from composer.methods.adaptive import QA_FLORA, kl_gates
from composer.methods.outputs import weighted_sum
from composer.methods.registry import Method

CROWDED = "Crowded in B-Space, 2026, arXiv 2604.16826 (formula from its authors' released code)"

PICO = Method(
    name="pico",
    label="Pico, then sum",
    help="Damps the directions that the adapters' outputs share, then adds them.",
    family="Calibrated",
    source=CROWDED,
    rule=weighted_sum,
    calibrated=True,
)

PICO_KL = Method(
    name="pico-kl",
    label="Pico, then KL fusion",
    help="Damps the directions that the adapters' outputs share, then lets the prompt share out the layers.",
    family="Calibrated",
    source=f"this project, on {CROWDED} and {QA_FLORA}",
    rule=kl_gates,
    dials=("blend", "scale", "norm", "tokens", "live"),
    needs=("kl",),
    calibrated=True,
)

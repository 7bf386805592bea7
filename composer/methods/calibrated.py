"""Pico as methods: directions that the adapters share are damped first, then one of the sums adds them."""

from __future__ import annotations

from dataclasses import replace

from composer.methods.adaptive import KL, QA_FLORA
from composer.methods.outputs import SUM

CROWDED = "Crowded in B-Space, 2026, arXiv 2604.16826 (formula from its authors' released code)"

PICO = replace(
    SUM,
    name="pico",
    label="Pico, then sum",
    help="Damps the directions that the adapters' outputs share, then adds them.",
    family="Calibrated",
    source=CROWDED,
    calibrated=True,
)

PICO_KL = replace(
    KL,
    name="pico-kl",
    label="Pico, then KL fusion",
    help="Damps the directions that the adapters' outputs share, then lets the prompt share out the layers.",
    family="Calibrated",
    source=f"this project, on {CROWDED} and {QA_FLORA}",
    calibrated=True,
)

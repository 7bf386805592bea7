"""Methods on the logits: each adapter runs alone, and what it changes in the next token's logits is added."""

from __future__ import annotations

from composer.methods.base import gate_method
from composer.methods.output_sums import CONTRAST, SUM

DEXPERTS = "DExperts, Liu et al. 2021, arXiv 2105.03023, without its filter of the base's own nucleus"

LOGITS = gate_method(
    name="logits",
    label="Logit sum (proxy-tuning)",
    help="Adds what each adapter alone changes in the next token's logits: they meet nowhere else.",
    formula="l = l_0 + strength · Σ w_i (l_i - l_0), l_i the logits with adapter i alone; the base runs N+1 "
    "times",
    source=f"proxy-tuning, Liu et al. 2024, arXiv 2401.08565; {DEXPERTS}; of several adapters: this project",
    family="Logits",
    on_logits=True,
)(SUM.gate_fn)

# Subtracting from the opposites' coefficients gives l_i - c mean_j l_j - (1 - c) l_0.
LOGITS_CONTRAST = gate_method(
    name="logits-contrast",
    label="Logit contrast (DExperts)",
    help="Logit sum, against the opposites of what you ask for: experts and anti-experts.",
    formula="l = l_0 + strength · Σ w_i (l_i - c mean_j l_j - (1-c) l_0), j the opposites of i",
    source=DEXPERTS,
    family="Logits",
    parameters=CONTRAST.parameters,
    on_logits=True,
)(CONTRAST.gate_fn)

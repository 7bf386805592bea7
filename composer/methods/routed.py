"""Methods whose tokens weight the adapters themselves; see composer.model.runtime.token_routing."""

from __future__ import annotations

from composer.methods.base import gate_method
from composer.methods.output_sums import SUM

ARROW = gate_method(
    name="arrow",
    label="Arrow (per token)",
    help="At every token and site, the adapter whose main direction the token points along counts most.",
    formula="the sum, times (1-t) + t·N·α_i (unit) or (1-t) + t·α_i (paper) at every token and site, "
    "α = softmax_i |x · v_i|, v_i the top right singular vector of B_i A_i",
    source="Ostapenko et al. 2024, arXiv 2405.11157 (from PEFT's released router: plain dot products, "
    "temperature 1; here all adapters with a weight are kept, where PEFT keeps 3)",
    family="Each token decides",
    parameters=("blend", "scale"),
    token_routed=True,
)(SUM.gate_fn)
